"""Aggregators with a state: FAST-GRU, GRU, LSTM, concat."""
