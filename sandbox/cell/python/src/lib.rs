//! What a Python of the image loads to become the zygote of native cells: one function, which it calls when it has
//! imported everything. It comes back when the warden has no more use for it; in the copies that are cells it does not.

/// Has cells born until the warden hangs up; `first` is the descriptor of the program that their pid 1 is. 0, or 1 after
/// saying why on standard error.
#[expect(unsafe_code, reason = "a symbol that Python can find has to be exported under its name")]
// SAFETY: no other symbol of this process has the name.
#[unsafe(no_mangle)]
pub extern "C" fn anchorhold_zygote(first: i32) -> i32 {
    match anchorhold_cell::native::serve(first) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("anchorhold-cell: {error}");
            1
        }
    }
}
