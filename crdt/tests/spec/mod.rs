//! The declarative specification of every type, and the worlds in which the implementation is compared with it.
//!
//! `history` says what was committed and what each commit had observed; `spec_*` say, from that alone, what must be
//! read; `replica` and `world` run the implementation; `compare` holds the two against each other.

// Every integration test compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

pub mod compare;
pub mod draw;
pub mod history;
pub mod replica;
pub mod seeds;
pub mod spec_counter;
pub mod spec_doc;
pub mod spec_flag;
pub mod spec_map;
pub mod spec_register;
pub mod spec_set;
pub mod spec_slot;
pub mod world;
