//! The operator's hand: everything that is typed once on a machine, and a demonstration of the whole.
//!
//! One command, one file. Commands return `anyhow::Result`; an error that has an exit code of its own
//! carries an [`exit::Failure`] in its chain. keadm knows the daemons only by their files and their
//! command lines.
//!
//! | command | file | touches |
//! |---|---|---|
//! | `init` | [`init`] | a cluster (definitions, namespace, rights) and this machine (cloudcore's files) |
//! | `gettoken` | [`gettoken`] | reads one Secret |
//! | `join` | [`join`] | this machine (edgecore's files) |
//! | `reset` | [`reset`] | takes back what `join` or `init` made |
//! | `demo` | [`demo`] | a temp dir |

pub mod binaries;
pub mod cli;
pub mod demo;
pub mod exit;
pub mod files;
pub mod gettoken;
pub mod http;
pub mod init;
pub mod join;
pub mod kubernetes;
pub mod receipt;
pub mod reset;
pub mod supervisor;
pub mod systemd;
pub mod terminal;
pub mod token;
