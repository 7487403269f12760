"""How fast events come through Kafka into PostgreSQL, beside psql's COPY of the same rows: `make bench-ingest`."""
