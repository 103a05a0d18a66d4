"""Changes of the store's tables from version to version; alembic applies them."""
