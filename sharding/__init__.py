"""Programs that turn genomes into shards, check them and describe them."""
