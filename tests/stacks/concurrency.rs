//! Many commands at once on the same things: each has its turn, and the last state is one of theirs.
