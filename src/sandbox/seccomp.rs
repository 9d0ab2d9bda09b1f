//! The system calls that a step may not make, or that only seem to work.
//!
//! - Ownership calls answer with success: there is one user id in the sandbox,
//!   and layers carry owners of their own (as Charliecloud does it).
//! - Injecting terminal input, kernel keyrings, mounts and further user
//!   namespaces answer `EPERM`.
//! - In chroot mode, where there is no network namespace, offline steps cannot
//!   make a socket other than a unix one.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{Mode, Network, Spec};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filters for good; also for everything that the command starts.
pub(super) fn install(spec: &Spec) -> Result<(), String> {
    if spec.interactive {
        // `forge run` runs the finished image: nothing is built, nothing pretended
        // except that there is only one user id.
        return apply(pretended()?, SeccompAction::Errno(0));
    }
    apply(refused()?, SeccompAction::Errno(libc::EPERM as u32))?;
    if spec.mode == Mode::Chroot && spec.network == Network::Offline {
        apply(sockets()?, SeccompAction::Errno(libc::ENETUNREACH as u32))?;
    }
    apply(pretended()?, SeccompAction::Errno(0))
}

fn apply(rules: Rules, action: SeccompAction) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|error| format!("seccomp on {}: {error}", std::env::consts::ARCH))?;
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, action, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| format!("seccomp filter: {error}"))?;
    seccompiler::apply_filter(&program).map_err(|error| format!("seccomp: {error}"))
}

fn always(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn when(
    argument: u8,
    length: SeccompCmpArgLen,
    operation: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, String> {
    SeccompCondition::new(argument, length, operation, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| format!("seccomp rule: {error}"))
}

fn pretended() -> Result<Rules, String> {
    let mut calls = vec![
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_setgroups,
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setreuid,
        libc::SYS_setregid,
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setfsuid,
        libc::SYS_setfsgid,
        libc::SYS_capset,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_chown, libc::SYS_lchown]);
    Ok(always(&calls))
}

fn refused() -> Result<Rules, String> {
    let mut rules = always(&[
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_fsopen,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_swapon,
        libc::SYS_reboot,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
    ]);
    // Only the low 32 bits of an ioctl's request count (CVE-2019-10063).
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        rules.entry(libc::SYS_ioctl).or_default().push(when(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            u64::from(request as u32),
        )?);
    }
    let new_user = libc::CLONE_NEWUSER as u64;
    for call in [libc::SYS_unshare, libc::SYS_clone] {
        rules.insert(
            call,
            vec![when(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(new_user), new_user)?],
        );
    }
    Ok(rules)
}

fn sockets() -> Result<Rules, String> {
    let mut rules = Rules::new();
    rules.insert(
        libc::SYS_socket,
        vec![when(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?],
    );
    Ok(rules)
}
