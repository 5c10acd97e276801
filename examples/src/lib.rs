//! Runnable examples of Meridian, one program each in `src/bin`; README.md says what to run and what to see.
//!
//! Here is what they share: a cluster to play with, their own or one that runs already, and the way a program ends.

pub mod playground;
