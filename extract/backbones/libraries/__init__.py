"""Networks of other libraries: torchvision, timm, transformers."""
