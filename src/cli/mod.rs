//! `sandboxctl`: the API as commands.
//!
//! One file per command. A command says what to ask for and how an answer is shown; [`context`] holds
//! what they share, [`failure`] turns every error into words, a remedy and an exit code. Nothing
//! here prints by macro: a closed pipe is no error and never a panic.

mod context;
mod create;
mod exec;
mod failure;
mod key;
mod ls;
mod output;
mod resolve;
mod rm;
mod run;
mod show;
mod start;
mod stop;
mod table;

pub use failure::ExitStatus;
pub use run::main;
