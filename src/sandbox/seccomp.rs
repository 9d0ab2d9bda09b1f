//! The system calls that a step may not make, or that only seem to work.
//!
//! - Ownership calls answer with success: there is one user id in the sandbox,
//!   and layers carry owners of their own (as Charliecloud does it).
//! - Injecting terminal input, kernel keyrings, mounts, further namespaces,
//!   tracing and io_uring (whose operations no filter sees) answer `EPERM`; the
//!   capabilities that these need are gone as well.
//! - In a traced step, reading a file without touching its access time is not possible:
//!   `O_NOATIME` answers `EPERM`, as it does for files of others, `O_DIRECT` (which touches
//!   none on btrfs) `EINVAL`, as where it is not known, and calls whose flags no filter sees,
//!   or that copy without reading, answer as on a kernel that lacks them.
//! - In chroot mode, where there is no network namespace, offline steps cannot
//!   make a socket other than a unix one.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{Given, Mode, Network, Spec};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filters for good; also for everything that the command starts.
pub(super) fn install(spec: &Spec) -> Result<(), String> {
    // The C library then uses clone, whose flags a filter can read.
    apply(always(&[libc::SYS_clone3]), SeccompAction::Errno(libc::ENOSYS as u32))?;
    apply(refused()?, SeccompAction::Errno(libc::EPERM as u32))?;
    if spec.given == Given::Traced {
        apply(opening(libc::O_NOATIME)?, SeccompAction::Errno(libc::EPERM as u32))?;
        apply(opening(libc::O_DIRECT)?, SeccompAction::Errno(libc::EINVAL as u32))?;
        let unseen = [libc::SYS_openat2, libc::SYS_copy_file_range];
        apply(always(&unseen), SeccompAction::Errno(libc::ENOSYS as u32))?;
        apply(clones()?, SeccompAction::Errno(libc::EOPNOTSUPP as u32))?;
    }
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
    SeccompRule::new(vec![condition(argument, length, operation, value)?])
        .map_err(|error| format!("seccomp rule: {error}"))
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operation: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, length, operation, value)
        .map_err(|error| format!("seccomp condition: {error}"))
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
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_mount_setattr,
        // open_tree_attr(2), which libc does not name yet.
        467,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_open_by_handle_at,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_userfaultfd,
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
    for flag in [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ] {
        let flag = u64::from(flag as u32);
        for call in [libc::SYS_unshare, libc::SYS_clone] {
            rules.entry(call).or_default().push(when(
                0,
                SeccompCmpArgLen::Qword,
                SeccompCmpOp::MaskedEq(flag),
                flag,
            )?);
        }
    }
    Ok(rules)
}

/// Opening a file with a flag, or giving it to one that is open.
fn opening(flag: libc::c_int) -> Result<Rules, String> {
    let flag = u64::from(flag as u32);
    let has_flag =
        |argument| when(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag);
    let mut rules = Rules::new();
    rules.insert(libc::SYS_openat, vec![has_flag(2)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![has_flag(1)?]);
    let set_flags = SeccompRule::new(vec![
        condition(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(libc::F_SETFL as u32))?,
        condition(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag)?,
    ])
    .map_err(|error| format!("seccomp rule: {error}"))?;
    rules.insert(libc::SYS_fcntl, vec![set_flags]);
    Ok(rules)
}

/// Copying, or comparing, by sharing blocks: overlayfs does it behind its own back.
fn clones() -> Result<Rules, String> {
    // ioctl_ficlonerange(2), ioctl_fideduperange(2); libc does not name them.
    const FICLONE: u32 = 0x4004_9409;
    const FICLONERANGE: u32 = 0x4020_940d;
    const FIDEDUPERANGE: u32 = 0xc018_9436;
    let mut rules = Rules::new();
    for request in [FICLONE, FICLONERANGE, FIDEDUPERANGE] {
        rules.entry(libc::SYS_ioctl).or_default().push(when(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            u64::from(request),
        )?);
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
