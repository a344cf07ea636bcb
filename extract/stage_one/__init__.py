"""Stage one of the paper in parts; `pretrain` puts them together."""
