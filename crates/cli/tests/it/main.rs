//! The tool as a person meets it: the program is run, and what it prints is looked at.

mod browser;
mod commands;
mod guards;
mod large;
mod logs;
mod matrix;
mod messages;
mod page;
mod run;
mod terminal;
