"""A run is a row: schema, files, storage, packs, provenance. No torch, no Ray."""
