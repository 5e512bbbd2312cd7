//! Filters that find a call's rules by halving the table of calls.
//!
//! seccompiler's own ask after one call behind the other. The kernel takes a filter through all its calls when the filter
//! is installed, which was most of what a wall of two hundred calls cost a cell, and the programs of a cell pass it with
//! each call that has rules. What the rules of one call become is seccompiler's.

use super::FilterError;
use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompRule, sock_filter};
use std::collections::BTreeMap;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
/// Where `seccomp_data` has the number of the call and the architecture whose table it is from: seccomp(2).
const CALL: u32 = 0;
const ARCHITECTURE: u32 = 4;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// The calls from one number up to the next span's, and what becomes of them.
struct Span {
    first: u32,
    code: BpfProgram,
}

/// Calls for which one of their rules holds, or that have none, get `matched`; all others `otherwise`. What comes by another
/// architecture's table than x86-64's kills its process.
pub(super) fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, FilterError> {
    let verdict = |action: &SeccompAction| statement(RETURN, action.clone().into());
    let mut spans: Vec<Span> = Vec::new();
    let mut begin = |first, code| {
        if spans.last().is_none_or(|last| last.code != code) {
            spans.push(Span { first, code });
        }
    };
    let mut next = 0;
    for (call, rules) in rules {
        let call = u32::try_from(call).map_err(|_| FilterError::Call(call))?;
        if call > next {
            begin(next, vec![verdict(&otherwise)]);
        }
        begin(call, decide(rules, verdict(&matched), verdict(&otherwise)));
        next = call + 1;
    }
    begin(next, vec![verdict(&otherwise)]);
    let mut program = vec![
        statement(LOAD, ARCHITECTURE),
        branch(JUMP_IF_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        verdict(&SeccompAction::KillProcess),
        statement(LOAD, CALL),
    ];
    program.extend(search(&spans));
    Ok(program)
}

fn decide(rules: Vec<SeccompRule>, matched: sock_filter, otherwise: sock_filter) -> BpfProgram {
    if rules.is_empty() {
        return vec![matched];
    }
    // What seccompiler makes of a rule goes on with the next instruction where it holds, and with the one behind that
    // where it does not.
    let rules = rules.into_iter().flat_map(|rule| [rule.into(), vec![matched.clone()]]);
    rules.flatten().chain([otherwise]).collect()
}

/// Goes to the last span that begins at or below the call's number, which is loaded.
fn search(spans: &[Span]) -> BpfProgram {
    let (below, above) = spans.split_at(spans.len() / 2);
    let (Some(middle), false) = (above.first(), below.is_empty()) else {
        return above.iter().flat_map(|only| only.code.clone()).collect();
    };
    let below = search(below);
    let mut program = match u8::try_from(below.len()) {
        Ok(length) => vec![branch(JUMP_IF_AT_LEAST, middle.first, length, 0)],
        #[expect(clippy::cast_possible_truncation, reason = "the kernel takes 4,096 instructions")]
        Err(_) => {
            vec![branch(JUMP_IF_AT_LEAST, middle.first, 0, 1), statement(JUMP, below.len() as u32)]
        }
    };
    program.extend(below);
    program.extend(search(above));
    program
}

fn statement(code: u16, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, TargetArch};

    const NATIVE_TABLE: u32 = AUDIT_ARCH_X86_64;
    const OTHER_TABLE: u32 = 0x4000_0003;
    const REFUSED: SeccompAction = SeccompAction::Errno(1);

    fn low_half(value: u64) -> u32 {
        u32::try_from(value & u64::from(u32::MAX)).unwrap()
    }

    /// What the kernel's interpreter makes of a call: the verdict, and how many instructions it took.
    fn run(program: &[sock_filter], table: u32, call: u32, arguments: [u64; 6]) -> (u32, usize) {
        let data: Vec<u32> = [call, table, 0, 0]
            .into_iter()
            .chain(arguments.into_iter().flat_map(|value| [value, value >> 32].map(low_half)))
            .collect();
        let (mut at, mut value, mut steps) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            (at, steps) = (at + 1, steps + 1);
            let jump = |holds| usize::from(if holds { jt } else { jf });
            match code {
                LOAD => value = data[k as usize / 4],
                0x54 => value &= k,
                RETURN => return (k, steps),
                JUMP => at += k as usize,
                JUMP_IF_EQUAL => at += jump(value == k),
                0x25 => at += jump(value > k),
                JUMP_IF_AT_LEAST => at += jump(value >= k),
                _ => panic!("{code:#x}"),
            }
        }
    }

    fn condition() -> impl Strategy<Value = SeccompCondition> {
        let compare = prop_oneof![
            Just(SeccompCmpOp::Eq),
            Just(SeccompCmpOp::Ne),
            Just(SeccompCmpOp::Ge),
            (0_u64..8).prop_map(SeccompCmpOp::MaskedEq),
        ];
        let length = prop_oneof![Just(SeccompCmpArgLen::Dword), Just(SeccompCmpArgLen::Qword)];
        (0_u8..6, length, compare, 0_u64..8).prop_map(|(argument, length, compare, value)| {
            SeccompCondition::new(argument, length, compare, value).unwrap()
        })
    }

    fn rules() -> impl Strategy<Value = BTreeMap<c_long, Vec<SeccompRule>>> {
        let rule = prop::collection::vec(condition(), 1..8).prop_map(|all| SeccompRule::new(all).unwrap());
        prop::collection::btree_map(0_i64..500, prop::collection::vec(rule, 0..3), 1..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn it_decides_as_seccompilers_do(
            rules in rules(),
            probes in prop::collection::vec((0_u32..510, prop::array::uniform6(0_u64..9)), 200),
        ) {
            let ours = compile(rules.clone(), REFUSED, SeccompAction::Allow).unwrap();
            let filter = SeccompFilter::new(rules, REFUSED, SeccompAction::Allow, TargetArch::x86_64).unwrap();
            let Ok(theirs) = BpfProgram::try_from(filter) else { return Ok(()) };
            for (call, arguments) in probes {
                for call in [call, call | 0x4000_0000, u32::MAX - call] {
                    let (verdict, _) = run(&ours, NATIVE_TABLE, call, arguments);
                    prop_assert_eq!(verdict, run(&theirs, NATIVE_TABLE, call, arguments).0, "call {}", call);
                    prop_assert_eq!(run(&ours, OTHER_TABLE, call, arguments).0, 0x8000_0000);
                }
            }
        }
    }

    #[test]
    fn a_call_is_found_in_a_few_steps() {
        let rules: BTreeMap<_, _> = (0..500).step_by(2).map(|call| (call, Vec::new())).collect();
        let program = compile(rules, REFUSED, SeccompAction::Allow).unwrap();
        let steps = (0..600).map(|call| run(&program, NATIVE_TABLE, call, [0; 6]).1).max();
        assert!(steps.is_some_and(|steps| steps <= 16), "{steps:?}");
    }
}
