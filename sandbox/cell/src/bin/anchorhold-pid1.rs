//! Pid 1 of a native cell. The zygote of such cells starts it, beside a copy of itself; started by anything else it says so
//! and ends.

use anchorhold_cell::native;
use anchorhold_cell::walls::JailWalls;
use anchorhold_jail::control::Class;
use anchorhold_jail::twin;
use std::convert::Infallible;

fn main() -> Result<Infallible, &'static str> {
    twin::adopt()
        .map(|(hatch, spare)| native::run(hatch.0, spare, &mut JailWalls::new(Class::Native)))
        .ok_or("only zygotes of anchorhold-warden start this program")
}
