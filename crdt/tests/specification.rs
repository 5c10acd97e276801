//! Every type reads as its declarative specification says, on every replica, after every step of random runs of
//! mutations, deliveries, relays, snapshot merges, stability and sweeps.

mod spec;

use meridian_crdt::Type;
use spec::draw::Subject;
use spec::seeds;
use spec::world::World;

fn reads_as_specified(ty: Type) {
    seeds::each(300, |seed| World::new(seed, |rng| Subject::of(ty, rng)).run());
}

#[test]
fn a_register_reads_as_specified() {
    reads_as_specified(Type::Register);
}

#[test]
fn an_mvregister_reads_as_specified() {
    reads_as_specified(Type::MvRegister);
}

#[test]
fn a_counter_reads_as_specified() {
    reads_as_specified(Type::Counter);
}

#[test]
fn a_flag_reads_as_specified() {
    reads_as_specified(Type::Flag);
}

#[test]
fn a_dwflag_reads_as_specified() {
    reads_as_specified(Type::DwFlag);
}

#[test]
fn a_set_reads_as_specified() {
    reads_as_specified(Type::Set);
}

#[test]
fn an_rwset_reads_as_specified() {
    reads_as_specified(Type::RwSet);
}

#[test]
fn a_map_with_nested_fields_reads_as_specified() {
    seeds::each(100, |seed| World::new(seed, |rng| Subject::of(Type::Map, rng)).run());
}

#[test]
fn a_doc_reads_as_specified() {
    seeds::each(100, |seed| World::new(seed, |rng| Subject::of(Type::Doc, rng)).run());
}

#[test]
fn keys_to_which_several_types_are_written_read_as_specified() {
    seeds::each(100, |seed| World::new(seed, Subject::mixed).run());
}
