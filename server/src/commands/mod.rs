//! The command line: one file a command.

pub mod bundle;
pub mod serve;
