//! What every pair of concurrent mutations comes to.
