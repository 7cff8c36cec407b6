"""A peer: one endpoint that sleeps a second, as the usual answer to "how many orders a second" has it."""
