"""faster: efficient video classification from a feature cache (FASTER, Zhu et al.).

`faster.extract` writes frozen backbones' feature maps into a store, `faster.aggregate` trains recurrent
aggregators straight from it, `faster.store` is the contract between the two, and `faster.predict` runs
both live. Importing this package imports none of them, nor torch.
"""

__version__ = "0.2.0"
