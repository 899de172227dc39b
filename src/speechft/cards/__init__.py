"""Model cards: what an encoder was made of, under which terms, how, and how well it does."""
