//! Runnable examples of Meridian, one program each in `src/bin`; README.md says what to run and what to see.
