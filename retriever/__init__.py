"""Everything that needs a model or a query: encoders, language identification, retrievers."""
