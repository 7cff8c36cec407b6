"""A peer without RPC: the driver alone, with conditional batches, which is as fast as the database goes."""
