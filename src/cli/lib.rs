//! `sandboxctl`: the API as commands.
//!
//! One file per command. A command says what to ask for and how an answer is shown; [`context`] holds
//! what they share, [`failure`] turns every error into words, a remedy and an exit code. Nothing
//! here prints by macro: a closed pipe is no error and never a panic.

mod attach;
mod attached;
mod completions;
mod context;
mod copied;
mod cp;
mod create;
mod directory;
mod events;
mod exec;
mod failure;
mod key;
mod key_state;
mod kill;
mod limits;
mod logs;
mod ls;
mod near;
mod open;
mod output;
mod pack;
mod pause;
mod pipe;
mod place;
mod presets;
mod ps;
mod purge;
mod reconnect;
mod resolve;
mod resume;
mod rm;
mod run;
mod session;
mod shell;
mod show;
mod signals;
mod start;
mod stats;
mod stop;
mod table;
mod terminal;
mod text;
mod unpack;

pub use failure::ExitStatus;
pub use run::main;
