//! What a session may use, and how what was requested becomes that.

use anchorhold_jail::control::CellLimits;

/// Limits of a session. All are present: unlimited is not a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processors, in thousandths.
    pub cpu_millicores: u32,
    /// Memory of all cells together, in bytes.
    pub memory_bytes: u64,
    /// Size of the workspace, in bytes.
    pub disk_bytes: u64,
    /// Tasks of all cells together.
    pub processes: u32,
    /// Output that an execution may keep (both streams together), in bytes; at four times as much it is ended.
    pub output_bytes: u64,
    /// The longest wall time of an execution, in microseconds.
    pub execution_us: u64,
    /// The most CPU of an execution, in microseconds.
    pub cpu_us: u64,
}

impl Limits {
    /// What the kernel enforces of them.
    pub(crate) fn of_cells(&self) -> CellLimits {
        CellLimits {
            cpu_millicores: self.cpu_millicores,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
            processes: self.processes,
        }
    }
}

/// What somebody asked for; what is `None` takes the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestedLimits {
    /// See [`Limits::cpu_millicores`].
    pub cpu_millicores: Option<u32>,
    /// See [`Limits::memory_bytes`].
    pub memory_bytes: Option<u64>,
    /// See [`Limits::disk_bytes`].
    pub disk_bytes: Option<u64>,
    /// See [`Limits::processes`].
    pub processes: Option<u32>,
    /// See [`Limits::output_bytes`].
    pub output_bytes: Option<u64>,
    /// See [`Limits::execution_us`].
    pub execution_us: Option<u64>,
    /// See [`Limits::cpu_us`].
    pub cpu_us: Option<u64>,
}

/// One of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitField {
    /// [`Limits::cpu_millicores`].
    CpuMillicores,
    /// [`Limits::memory_bytes`].
    MemoryBytes,
    /// [`Limits::disk_bytes`].
    DiskBytes,
    /// [`Limits::processes`].
    Processes,
    /// [`Limits::output_bytes`].
    OutputBytes,
    /// [`Limits::execution_us`].
    ExecutionUs,
    /// [`Limits::cpu_us`].
    CpuUs,
}

/// Why a request cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Nothing is not a limit (a negative number must reach here as 0).
    #[error("{0:?} must be positive")]
    NotPositive(LimitField),
    /// More than the operator grants.
    #[error("{field:?} must be at most {ceiling}")]
    AboveCeiling {
        /// Which limit.
        field: LimitField,
        /// The most that is granted, in the limit's unit.
        ceiling: u64,
    },
}

impl RequestedLimits {
    /// The limits that hold: what was asked for, where it is positive and at most `ceiling`; the default elsewhere,
    /// lowered to the ceiling where it exceeds it.
    pub fn resolve(self, default: &Limits, ceiling: &Limits) -> Result<Limits, LimitError> {
        use LimitField as F;
        Ok(Limits {
            cpu_millicores: pick(
                F::CpuMillicores,
                self.cpu_millicores,
                default.cpu_millicores,
                ceiling.cpu_millicores,
            )?,
            memory_bytes: pick(
                F::MemoryBytes,
                self.memory_bytes,
                default.memory_bytes,
                ceiling.memory_bytes,
            )?,
            disk_bytes: pick(F::DiskBytes, self.disk_bytes, default.disk_bytes, ceiling.disk_bytes)?,
            processes: pick(F::Processes, self.processes, default.processes, ceiling.processes)?,
            output_bytes: pick(
                F::OutputBytes,
                self.output_bytes,
                default.output_bytes,
                ceiling.output_bytes,
            )?,
            execution_us: pick(
                F::ExecutionUs,
                self.execution_us,
                default.execution_us,
                ceiling.execution_us,
            )?,
            cpu_us: pick(F::CpuUs, self.cpu_us, default.cpu_us, ceiling.cpu_us)?,
        })
    }
}

fn pick<T: Copy + Ord + Default + Into<u64>>(
    field: LimitField,
    requested: Option<T>,
    default: T,
    ceiling: T,
) -> Result<T, LimitError> {
    match requested {
        Some(value) if value == T::default() => Err(LimitError::NotPositive(field)),
        Some(value) if value > ceiling => Err(LimitError::AboveCeiling { field, ceiling: ceiling.into() }),
        Some(value) => Ok(value),
        None => Ok(default.min(ceiling)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> impl Strategy<Value = Limits> {
        let small = 1u64..1000;
        (1u32..1000, small.clone(), small.clone(), 1u32..1000, small.clone(), small.clone(), small).prop_map(
            |(cpu_millicores, memory_bytes, disk_bytes, processes, output_bytes, execution_us, cpu_us)| {
                Limits {
                    cpu_millicores,
                    memory_bytes,
                    disk_bytes,
                    processes,
                    output_bytes,
                    execution_us,
                    cpu_us,
                }
            },
        )
    }

    fn requested() -> impl Strategy<Value = RequestedLimits> {
        let some = proptest::option::of(0u64..1200);
        let few = proptest::option::of(0u32..1200);
        (few.clone(), some.clone(), some.clone(), few, some.clone(), some.clone(), some).prop_map(
            |(cpu_millicores, memory_bytes, disk_bytes, processes, output_bytes, execution_us, cpu_us)| {
                RequestedLimits {
                    cpu_millicores,
                    memory_bytes,
                    disk_bytes,
                    processes,
                    output_bytes,
                    execution_us,
                    cpu_us,
                }
            },
        )
    }

    fn numbers(l: &Limits) -> [u64; 7] {
        [
            l.cpu_millicores.into(),
            l.memory_bytes,
            l.disk_bytes,
            l.processes.into(),
            l.output_bytes,
            l.execution_us,
            l.cpu_us,
        ]
    }

    fn asked(r: &RequestedLimits) -> [Option<u64>; 7] {
        [
            r.cpu_millicores.map(Into::into),
            r.memory_bytes,
            r.disk_bytes,
            r.processes.map(Into::into),
            r.output_bytes,
            r.execution_us,
            r.cpu_us,
        ]
    }

    proptest! {
        #[test]
        fn never_zero_never_above_the_ceiling_and_else_as_asked(
            request in requested(), default in limits(), ceiling in limits(),
        ) {
            let wishes = asked(&request).into_iter().zip(numbers(&ceiling));
            let grantable = wishes.clone().all(|(wish, most)| wish.is_none_or(|w| w > 0 && w <= most));
            let resolved = request.resolve(&default, &ceiling);
            prop_assert_eq!(resolved.is_ok(), grantable);
            if let Ok(resolved) = resolved {
                for (value, (wish, most)) in numbers(&resolved).into_iter().zip(wishes) {
                    prop_assert!(value > 0 && value <= most);
                    prop_assert!(wish.is_none_or(|w| w == value));
                }
            }
        }
    }
}
