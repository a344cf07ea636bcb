"""The GPU stage: videos → clips → frozen backbones → feature maps in a store; and stage one's training."""
