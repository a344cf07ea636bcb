"""faster: efficient video classification from a feature cache (FASTER, Zhu et al.).

`faster.extract` writes the feature maps of frozen backbones into a store. `faster.aggregate` trains recurrent
aggregators from that store. `faster.store` is the contract between the two. `faster.predict` runs both on
live video. Importing this package imports none of them, and not torch.
"""

__version__ = "0.2.0"
