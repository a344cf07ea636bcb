"""Both stages live: raw video to classes, each clip through only the backbone it needs."""
