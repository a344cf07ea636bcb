"""Operations on a complete store: inspect, verify, convert, and tell how to make its shards again."""
