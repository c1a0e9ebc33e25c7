//! Compiles a seccomp profile to classic BPF.
//!
//! The kernel runs a new filter over every system call number when it is loaded, so its length is paid
//! at each start: the numbers are searched as a balanced tree instead of one by one, and neighbours
//! with the same verdict are one range.
//!
//! ```text
//! arch? ─no─► kill      number ≥ 150? ─► number ≥ 220? ─► … ─► allow · errno · look at the arguments
//! ```
//!
//! The rules of a system call are tried in the order of the profile; the first that matches decides.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use syscalls::Sysno;

use sys::seccomp::Instruction;

const PROFILE: &str = include_str!("../../../oci/seccomp.json");
/// What a sandbox whose programs may make namespaces has before the rules of [`PROFILE`].
const NESTED: &str = include_str!("../../../oci/seccomp-nested.json");

/// `AUDIT_ARCH_*` of `linux/audit.h` for the machine this is built for.
#[cfg(target_arch = "x86_64")]
const NATIVE: (Arch, u32) = (Arch::ScmpArchX86_64, 0xc000_003e);
#[cfg(target_arch = "aarch64")]
const NATIVE: (Arch, u32) = (Arch::ScmpArchAarch64, 0xc000_00b7);

/// Offsets in `struct seccomp_data`; the words of an argument lie low first.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

// Opcodes of `linux/bpf_common.h`.
const LD_W_ABS: u16 = 0x20;
const ALU_AND_K: u16 = 0x54;
const JMP_JA: u16 = 0x05;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

// Verdicts of `linux/seccomp.h`.
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO_MAX: u32 = 4095;
const ENOSYS: u32 = 38;
/// The last number that may become a system call's. The kernel adds a few each year and is below 500; what lies
/// above, the x32 interface among it, is refused by the default.
const NUMBER_MAX: u32 = 1023;

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("parse the seccomp profile")]
    Parse(#[source] serde_json::Error),
    #[error("compile the seccomp profile: it is not for {0:?}")]
    Architecture(Arch),
    #[error("compile the seccomp profile: there is no system call {0:?}")]
    UnknownSyscall(String),
    #[error("compile the seccomp profile: the action {0:?} is not supported")]
    Action(LinuxSeccompAction),
    #[error("compile the seccomp profile: the comparison {0:?} is not supported")]
    Operator(LinuxSeccompOperator),
    #[error("compile the seccomp profile: a system call has no argument {0}")]
    Argument(usize),
    #[error("compile the seccomp profile: it takes {0} instructions, more than the kernel's 4096")]
    TooLong(usize),
}

/// One rule of one system call: all conditions hold → the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    verdict: u32,
}

/// `(argument & mask) == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    argument: u32,
    mask: u64,
    value: u64,
}

/// What is to be done with a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leaf {
    Verdict(u32),
    Rules(Vec<Rule>),
}

/// Compiles the profile of every sandbox.
///
/// # Errors
/// A profile that is not right; a test keeps this from being released.
pub fn embedded() -> Result<Vec<Instruction>, SeccompError> {
    compile(&parse(PROFILE)?)
}

/// Compiles that of a sandbox whose programs may make user, pid and network namespaces: the same behind rules of its
/// own, which therefore decide first.
///
/// # Errors
/// As [`embedded`].
pub fn nested() -> Result<Vec<Instruction>, SeccompError> {
    compile(&joined(&[NESTED, PROFILE])?)
}

fn parse(text: &str) -> Result<LinuxSeccomp, SeccompError> {
    serde_json::from_str(text).map_err(SeccompError::Parse)
}

/// The rules of several profiles one after the other; the first says what holds for the whole.
fn joined(texts: &[&str]) -> Result<LinuxSeccomp, SeccompError> {
    let profiles = texts.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    let rules = profiles.iter().flat_map(|profile| profile.syscalls().clone().unwrap_or_default()).collect();
    let mut whole = profiles.into_iter().next().unwrap_or_default();
    whole.set_syscalls(Some(rules));
    Ok(whole)
}

/// Compiles a profile for this machine.
///
/// # Errors
/// Anything in it that cannot be expressed exactly.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, SeccompError> {
    if profile.architectures().as_ref().is_some_and(|all| !all.contains(&NATIVE.0)) {
        return Err(SeccompError::Architecture(NATIVE.0));
    }
    let default = verdict(profile.default_action(), profile.default_errno_ret())?;
    let leaves = ranges(&with_unknown(rules(profile)?), default);
    let mut program = vec![
        load(OFFSET_ARCH),
        jump(JMP_JEQ_K, NATIVE.1, 1, 0),
        // The numbers of another architecture mean other calls: nothing of ours makes them.
        give(RET_KILL_PROCESS),
        load(OFFSET_NR),
    ];
    program.extend(search(&leaves, default));
    if program.len() > 4096 { Err(SeccompError::TooLong(program.len())) } else { Ok(program) }
}

/// The rules by number, each list in the order of the profile.
fn rules(profile: &LinuxSeccomp) -> Result<BTreeMap<u32, Vec<Rule>>, SeccompError> {
    let mut all: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for entry in profile.syscalls().iter().flatten() {
        let verdict = verdict(entry.action(), entry.errno_ret())?;
        let conditions: Result<Vec<_>, _> = entry.args().iter().flatten().map(condition).collect();
        let conditions = conditions?;
        for name in entry.names() {
            let number = Sysno::from_str(name).map_err(|_e| SeccompError::UnknownSyscall(name.clone()))?;
            let number = u32::try_from(number.id()).unwrap_or(u32::MAX);
            all.entry(number).or_default().push(Rule { conditions: conditions.clone(), verdict });
        }
    }
    Ok(all)
}

/// Adds a rule for each gap in the kernel's table and for each number behind the newest call of the profile: `ENOSYS`, as
/// a kernel without them answers. A C library tries the older call only then; `EPERM` it passes to the program.
fn with_unknown(mut rules: BTreeMap<u32, Vec<Rule>>) -> BTreeMap<u32, Vec<Rule>> {
    let newest = rules.keys().next_back().copied().unwrap_or(0);
    for number in (0..=NUMBER_MAX).filter(|number| is_unknown(*number, newest)) {
        rules.insert(number, vec![Rule { conditions: Vec::new(), verdict: RET_ERRNO | ENOSYS }]);
    }
    rules
}

fn is_unknown(number: u32, newest: u32) -> bool {
    number > newest || Sysno::new(number as usize).is_none()
}

/// Where each range begins, in order; the first begins at 0, the last has no end.
fn ranges(rules: &BTreeMap<u32, Vec<Rule>>, default: u32) -> Vec<(u32, Leaf)> {
    let mut all = vec![(0, Leaf::Verdict(default))];
    let mut push = |start: u32, leaf: Leaf| match all.last_mut() {
        Some((begin, last)) if *begin == start => *last = leaf,
        Some((_, last)) if *last == leaf => {}
        _ => all.push((start, leaf)),
    };
    for (number, rules) in rules {
        let leaf = match rules.first() {
            Some(Rule { conditions, verdict }) if conditions.is_empty() => Leaf::Verdict(*verdict),
            _ => Leaf::Rules(rules.clone()),
        };
        push(*number, leaf);
        push(number + 1, Leaf::Verdict(default));
    }
    // A default that was put between two neighbours is overwritten above, which may leave equal ones.
    all.dedup_by(|later, earlier| later.1 == earlier.1);
    all
}

/// The tree over some ranges; every path through it ends in a verdict.
fn search(ranges: &[(u32, Leaf)], default: u32) -> Vec<Instruction> {
    let middle = ranges.len() / 2;
    let (left, right) = ranges.split_at(middle);
    let (Some(_), Some((boundary, _))) = (left.first(), right.first()) else {
        return ranges.first().map_or_else(|| vec![give(default)], |(_, leaf)| decide(leaf, default));
    };
    let (left, right) = (search(left, default), search(right, default));
    let mut code = match u8::try_from(left.len()) {
        Ok(skip) => vec![jump(JMP_JGE_K, *boundary, skip, 0)],
        // A conditional jump reaches 255 instructions, an unconditional one everywhere.
        Err(_) => vec![jump(JMP_JGE_K, *boundary, 0, 1), jump_always(left.len())],
    };
    code.extend(left);
    code.extend(right);
    code
}

fn decide(leaf: &Leaf, default: u32) -> Vec<Instruction> {
    match leaf {
        Leaf::Verdict(verdict) => vec![give(*verdict)],
        Leaf::Rules(rules) => {
            let mut code: Vec<_> = rules.iter().flat_map(test).collect();
            code.push(give(default));
            code
        }
    }
}

/// The code of one rule: gives its verdict, or falls through behind its end.
fn test(rule: &Rule) -> Vec<Instruction> {
    let mut words = Vec::new();
    for condition in &rule.conditions {
        let offset = OFFSET_ARGS + 8 * condition.argument;
        for (offset, mask, value) in [
            (offset + 4, high(condition.mask), high(condition.value)),
            (offset, low(condition.mask), low(condition.value)),
        ] {
            // A word that is masked away says nothing.
            if (mask, value) != (0, 0) {
                words.push((offset, mask, value));
            }
        }
    }
    let length = |mask: u32| if mask == u32::MAX { 2 } else { 3 };
    let mut rest: usize = words.iter().map(|(_, mask, _)| length(*mask)).sum();
    let mut code = Vec::new();
    for (offset, mask, value) in words {
        rest -= length(mask);
        code.push(load(offset));
        if mask != u32::MAX {
            code.push(Instruction { code: ALU_AND_K, jt: 0, jf: 0, k: mask });
        }
        // On failure: behind the rest of the tests and the verdict. Six arguments take at most 36.
        code.push(jump(JMP_JEQ_K, value, 0, u8::try_from(rest + 1).unwrap_or(u8::MAX)));
    }
    code.push(give(rule.verdict));
    code
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, SeccompError> {
    let argument = u32::try_from(arg.index())
        .ok()
        .filter(|i| *i < 6)
        .ok_or_else(|| SeccompError::Argument(arg.index()))?;
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => Ok(Condition { argument, mask: u64::MAX, value: arg.value() }),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Ok(Condition { argument, mask: arg.value(), value: arg.value_two().unwrap_or(0) })
        }
        other => Err(SeccompError::Operator(other)),
    }
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    const EPERM: u32 = 1;
    match action {
        LinuxSeccompAction::ScmpActAllow => Ok(RET_ALLOW),
        LinuxSeccompAction::ScmpActLog => Ok(RET_LOG),
        LinuxSeccompAction::ScmpActKillProcess => Ok(RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActErrno => Ok(RET_ERRNO | errno.unwrap_or(EPERM).min(ERRNO_MAX)),
        other => Err(SeccompError::Action(other)),
    }
}

const fn load(offset: u32) -> Instruction {
    Instruction { code: LD_W_ABS, jt: 0, jf: 0, k: offset }
}

const fn give(verdict: u32) -> Instruction {
    Instruction { code: RET_K, jt: 0, jf: 0, k: verdict }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn jump_always(skip: usize) -> Instruction {
    Instruction { code: JMP_JA, jt: 0, jf: 0, k: u32::try_from(skip).unwrap_or(u32::MAX) }
}

#[expect(clippy::cast_possible_truncation, reason = "the word is what is wanted")]
const fn low(value: u64) -> u32 {
    value as u32
}

const fn high(value: u64) -> u32 {
    low(value >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The newest call that the profile names: `removexattrat`.
    const NEWEST: u32 = 466;

    /// What the profile says, read straight from it.
    fn expected(profile: &LinuxSeccomp, number: u32, args: [u64; 6]) -> u32 {
        for entry in profile.syscalls().iter().flatten() {
            let named = entry
                .names()
                .iter()
                .any(|n| Sysno::from_str(n).unwrap().id() == i32::try_from(number).unwrap_or(-1));
            let holds = entry.args().iter().flatten().all(|arg| match arg.op() {
                LinuxSeccompOperator::ScmpCmpEq => args[arg.index()] == arg.value(),
                LinuxSeccompOperator::ScmpCmpMaskedEq => {
                    args[arg.index()] & arg.value() == arg.value_two().unwrap_or(0)
                }
                other => panic!("{other:?}"),
            });
            if named && holds {
                return verdict(entry.action(), entry.errno_ret()).unwrap();
            }
        }
        if number <= NUMBER_MAX && (number > NEWEST || Sysno::new(number as usize).is_none()) {
            return RET_ERRNO | ENOSYS;
        }
        verdict(profile.default_action(), profile.default_errno_ret()).unwrap()
    }

    /// Runs a program as the kernel does.
    fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            OFFSET_NR => number,
            OFFSET_ARCH => arch,
            _ => {
                let (index, rest) = ((offset - OFFSET_ARGS) / 8, (offset - OFFSET_ARGS) % 8);
                if rest == 0 { low(args[index as usize]) } else { high(args[index as usize]) }
            }
        };
        let (mut at, mut register) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                LD_W_ABS => register = word(i.k),
                ALU_AND_K => register &= i.k,
                JMP_JA => at += i.k as usize,
                JMP_JEQ_K => at += usize::from(if register == i.k { i.jt } else { i.jf }),
                JMP_JGE_K => at += usize::from(if register >= i.k { i.jt } else { i.jf }),
                RET_K => return i.k,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn profiles() -> [LinuxSeccomp; 2] {
        [parse(PROFILE).unwrap(), joined(&[NESTED, PROFILE]).unwrap()]
    }

    #[test]
    fn every_number_has_the_verdict_of_the_profile() {
        let interesting = [
            0,
            1,
            2,
            3,
            4,
            6,
            8,
            10,
            16,
            17,
            31,
            36,
            38,
            40,
            1024,
            1026,
            1030,
            1040,
            0x1_0000_0400,
            0x5423,
            0x4008_6602,
            0x401c_5820,
            0x1_0000_001f,
            0x1_0000_0004,
            0x5412,
            0x541c,
            0x1_0000_5412,
            0x1000_0000,
            0o020_644,
            0o010_644,
            u64::MAX,
        ];
        for profile in profiles() {
            let program = compile(&profile).unwrap();
            println!("{} instructions", program.len());
            assert!(program.len() <= 750, "{}", program.len());
            for number in (0..700).chain([NUMBER_MAX, NUMBER_MAX + 1, 0x4000_0000, 0x4000_0001, u32::MAX]) {
                for value in interesting {
                    let args = [value; 6];
                    assert_eq!(
                        run(&program, NATIVE.1, number, args),
                        expected(&profile, number, args),
                        "{number} {value:#x}"
                    );
                }
            }
        }
    }

    /// Everything that the second profile gives and takes, by number and arguments.
    #[test]
    fn what_nests_may_do_what_a_browsers_sandbox_does_and_no_more() {
        const NEW_ALL: u64 = 0x7e02_0080;
        const SIGCHLD: u64 = 17;
        let [ordinary, nested] = [embedded().unwrap(), super::nested().unwrap()];
        let verdict = |program: &[Instruction], call: Sysno, args: &[u64]| {
            let mut all = [0; 6];
            all[..args.len()].copy_from_slice(args);
            run(program, NATIVE.1, u32::try_from(call.id()).unwrap(), all)
        };
        let (user, pid, net) = (0x1000_0000, 0x2000_0000, 0x4000_0000);
        for flags in [user, user | pid | net, pid, user | pid, 0x7d0f00] {
            assert_eq!(verdict(&nested, Sysno::clone, &[flags | SIGCHLD]), RET_ALLOW, "{flags:#x}");
        }
        for bit in 0..64 {
            let flag = 1 << bit;
            let is_other_space = flag & NEW_ALL & !(user | pid | net) != 0;
            let given = verdict(&nested, Sysno::clone, &[flag | user]);
            assert_eq!(given == RET_ALLOW, !is_other_space, "{flag:#x}");
            let given = verdict(&nested, Sysno::unshare, &[flag]);
            assert_eq!(given == RET_ALLOW, flag == user, "{flag:#x}");
            assert_ne!(verdict(&nested, Sysno::unshare, &[flag | user]) == RET_ALLOW, flag != user);
        }
        assert_eq!(verdict(&nested, Sysno::chroot, &[1]), RET_ALLOW);
        // What root of a new network namespace could do there: each goes in the ordinary one, where nobody is.
        let taken: &[(Sysno, &[u64])] = &[
            (Sysno::socket, &[16, 3, 0]),
            (Sysno::ioctl, &[3, 0x8914]),
            (Sysno::ioctl, &[3, 0x89f1]),
            (Sysno::ioctl, &[3, 0xffff_ffff_0000_890b]),
            (Sysno::setsockopt, &[3, 0, 64]),
            (Sysno::getsockopt, &[3, 0, 64]),
            (Sysno::setsockopt, &[3, 0, 96]),
            (Sysno::setsockopt, &[3, 0xffff_ffff_0000_0000, 64]),
            (Sysno::setsockopt, &[3, 0, 0x482]),
            (Sysno::setsockopt, &[3, 0, 17]),
            (Sysno::setsockopt, &[3, 41, 64]),
            (Sysno::getsockopt, &[3, 41, 65]),
            (Sysno::setsockopt, &[3, 41, 35]),
            (Sysno::setsockopt, &[3, 41, 202]),
            (Sysno::setsockopt, &[3, 6, 19]),
        ];
        for (call, args) in taken {
            assert_eq!(verdict(&ordinary, *call, args), RET_ALLOW, "{call:?} {args:x?}");
            assert_ne!(verdict(&nested, *call, args), RET_ALLOW, "{call:?} {args:x?}");
        }
        let left: &[(Sysno, &[u64])] = &[
            (Sysno::ioctl, &[3, 0x8912]),
            (Sysno::ioctl, &[3, 0x541b]),
            (Sysno::setsockopt, &[3, 0, 1]),
            (Sysno::setsockopt, &[3, 41, 26]),
            (Sysno::setsockopt, &[3, 41, 67]),
            (Sysno::setsockopt, &[3, 6, 1]),
            (Sysno::setsockopt, &[3, 1, 2]),
            (Sysno::socket, &[2, 1, 0]),
        ];
        for (call, args) in left {
            assert_eq!(verdict(&nested, *call, args), RET_ALLOW, "{call:?} {args:x?}");
        }
        for shut in [
            Sysno::mount,
            Sysno::umount2,
            Sysno::pivot_root,
            Sysno::fsopen,
            Sysno::fsmount,
            Sysno::open_tree,
            Sysno::move_mount,
            Sysno::mount_setattr,
            Sysno::setns,
            Sysno::bpf,
            Sysno::clone3,
        ] {
            assert_ne!(verdict(&nested, shut, &[]), RET_ALLOW, "{shut:?}");
        }
    }

    /// Filters on sockets take of the room for machine code, which all of the host has in common.
    #[test]
    fn no_filter_is_attached_to_a_socket() {
        for program in [embedded().unwrap(), super::nested().unwrap()] {
            for (level, option) in [(1, 26), (1 | 1 << 32, 26), (1, 51), (1 | 1 << 32, 51)] {
                let call = u32::try_from(Sysno::setsockopt.id()).unwrap();
                let given = run(&program, NATIVE.1, call, [3, level, option, 0, 0, 0]);
                assert_ne!(given, RET_ALLOW, "{level:x} {option}");
            }
        }
    }

    #[test]
    fn another_architecture_is_killed() {
        let program = embedded().unwrap();
        for arch in [0x4000_0003, 0, u32::MAX] {
            assert_eq!(run(&program, arch, 0, [0; 6]), RET_KILL_PROCESS);
        }
    }

    /// A library falls back on `ENOSYS` and `EPROTONOSUPPORT`; anything else it takes for a failure.
    #[test]
    fn what_is_not_known_is_answered_as_by_a_kernel_without_it() {
        for program in [embedded().unwrap(), super::nested().unwrap()] {
            for number in [340, 400, 423, 457, 470, 600, NUMBER_MAX] {
                assert_eq!(run(&program, NATIVE.1, number, [0; 6]), RET_ERRNO | ENOSYS, "{number}");
            }
            for known in [Sysno::mount, Sysno::bpf, Sysno::setns, Sysno::open_tree, Sysno::kcmp] {
                let number = u32::try_from(known.id()).unwrap();
                assert_eq!(run(&program, NATIVE.1, number, [0; 6]), RET_ERRNO | 1, "{known:?}");
            }
            let socket = |protocol| {
                let call = u32::try_from(Sysno::socket.id()).unwrap();
                run(&program, NATIVE.1, call, [16, 3, protocol, 0, 0, 0])
            };
            assert_eq!((socket(9), socket(12)), (RET_ERRNO | 93, RET_ERRNO | 1));
        }
    }

    #[test]
    fn a_typo_is_not_skipped() {
        let text = PROFILE.replacen("\"accept\"", "\"acept\"", 1);
        let profile = serde_json::from_str(&text).unwrap();
        assert!(matches!(compile(&profile), Err(SeccompError::UnknownSyscall(name)) if name == "acept"));
    }

    proptest! {
        #[test]
        fn arguments_have_the_verdict_of_the_profile(number in 0_u32..480, args in any::<[u64; 6]>(), small in any::<bool>()) {
            let args = if small { args.map(|a| a & 0x3f) } else { args };
            for profile in profiles() {
                let program = compile(&profile).unwrap();
                prop_assert_eq!(run(&program, NATIVE.1, number, args), expected(&profile, number, args));
            }
        }
    }
}
