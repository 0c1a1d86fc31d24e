//! The miniature world: the whole experiment at about 1/1000 of its size, on two CPU cores.

pub mod bootstrap;
