"""Operations on a complete store: inspect, verify, convert, and commands to make its shards again."""
