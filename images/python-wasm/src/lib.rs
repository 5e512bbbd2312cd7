//! Python as an anchorhold guest: RustPython behind the ABI of `images/README.md`.
//!
//! - `abi`: the exports, the imports, the argument buffer. The only home of `unsafe`
//! - `session`: the interpreter, one execution after the other
//! - `value`: results and errors as JSON for the host
//! - `boot/prelude.py`: what is easier said in Python: rich display, the event loop, what is missing
//!
//! Everything in `session::create` happens once, when the image is built. A session starts from that
//! memory, so whatever can be imported, compiled or warmed up there costs a session nothing.

mod abi;
mod session;
mod value;
