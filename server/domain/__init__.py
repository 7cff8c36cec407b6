"""What an order is and may become: pure decisions, standard library only, called and never calling."""
