//! Who may ask, in what language, and what it cost: the HTTP session API, keys and the ledger.

#![forbid(unsafe_code)]

mod aside;
pub mod audit;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod egress;
pub mod http;
pub mod ledger;
pub mod listen;
pub mod mcp;
pub mod metrics;
pub mod price;
pub mod serve;
pub mod service;
pub mod tenant;
pub mod traces;
pub mod words;
