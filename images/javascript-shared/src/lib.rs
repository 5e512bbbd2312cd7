//! What JavaScript guests have in common, whatever their engine: the edge to the host, files, time, random numbers,
//! URLs, and the prelude, which is their JavaScript half.
//!
//! Nothing here knows an engine. A guest gives the functions of these modules to the prelude as one flat object,
//! `host`; [`prelude`] says which ones.

pub mod abi;
pub mod clock;
pub mod files;
pub mod imports;
pub mod output;
pub mod prelude;
pub mod random;
pub mod stop;
pub mod urls;
