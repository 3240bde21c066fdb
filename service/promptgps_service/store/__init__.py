"""The only SQL: engine, tables, a repository a noun, one store over one unit of work."""
