//! Calls of the operating system: the few functions of the C library that the standard library does not offer.
#![expect(
    unsafe_code,
    reason = "the C library is declared and called here, and nowhere else"
)]

use std::ffi::{CStr, c_char, c_int, c_long, c_short, c_ulong, c_void};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

mod c {
    use super::{
        EpollEvent, PollFd, RandPool, Spare, TimeSpec, c_char, c_int, c_long, c_short, c_ulong, c_void,
    };

    unsafe extern "C" {
        pub(super) safe fn epoll_create1(flags: c_int) -> c_int;
        pub(super) fn epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut EpollEvent) -> c_int;
        pub(super) fn epoll_wait(epoll: c_int, events: *mut EpollEvent, max: c_int, timeout: c_int) -> c_int;
        pub(super) fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
        pub(super) fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
        pub(super) fn read(fd: c_int, buf: *mut c_void, count: usize) -> isize;
        pub(super) fn write(fd: c_int, buf: *const c_void, count: usize) -> isize;
        pub(super) fn send(fd: c_int, buf: *const c_void, count: usize, flags: c_int) -> isize;
        pub(super) safe fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int;
        pub(super) fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int;
        pub(super) safe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
        pub(super) fn connect(fd: c_int, address: *const c_void, length: u32) -> c_int;
        pub(super) safe fn shutdown(fd: c_int, how: c_int) -> c_int;
        pub(super) fn getsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *mut c_void,
            length: *mut u32,
        ) -> c_int;
        pub(super) fn setsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *const c_void,
            length: u32,
        ) -> c_int;
        pub(super) fn sigprocmask(how: c_int, set: *const Spare, old: *mut Spare) -> c_int;
        pub(super) fn sigwaitinfo(set: *const Spare, info: *mut c_void) -> c_int;
        pub(super) fn signalfd(fd: c_int, set: *const Spare, flags: c_int) -> c_int;
        pub(super) fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
        pub(super) safe fn kill(pid: c_int, signal: c_int) -> c_int;
        pub(super) safe fn fork() -> c_int;
        pub(super) safe fn _exit(status: c_int) -> !;
        pub(super) safe fn setsid() -> c_int;
        pub(super) safe fn getpid() -> c_int;
        pub(super) safe fn sync();
        pub(super) fn prctl(option: c_int, argument: *const c_char) -> c_int;
        pub(super) fn clock_settime(clock: c_int, time: *const TimeSpec) -> c_int;
        pub(super) fn mount(
            source: *const c_char,
            target: *const c_char,
            kind: *const c_char,
            flags: c_ulong,
            data: *const c_char,
        ) -> c_int;
        pub(super) fn sethostname(name: *const c_char, length: usize) -> c_int;
        pub(super) safe fn reboot(command: c_int) -> c_int;
        pub(super) fn syscall(number: c_long, ...) -> c_long;
        pub(super) fn posix_spawn(
            pid: *mut c_int,
            path: *const c_char,
            actions: *const Spare,
            attributes: *const Spare,
            argv: *const *const c_char,
            envp: *const *const c_char,
        ) -> c_int;
        pub(super) fn posix_spawn_file_actions_init(actions: *mut Spare) -> c_int;
        pub(super) fn posix_spawn_file_actions_destroy(actions: *mut Spare) -> c_int;
        pub(super) fn posix_spawn_file_actions_adddup2(actions: *mut Spare, fd: c_int, new: c_int) -> c_int;
        pub(super) fn posix_spawn_file_actions_addfchdir_np(actions: *mut Spare, fd: c_int) -> c_int;
        pub(super) fn posix_spawnattr_init(attributes: *mut Spare) -> c_int;
        pub(super) fn posix_spawnattr_destroy(attributes: *mut Spare) -> c_int;
        pub(super) fn posix_spawnattr_setflags(attributes: *mut Spare, flags: c_short) -> c_int;
        pub(super) fn posix_spawnattr_setsigmask(attributes: *mut Spare, set: *const Spare) -> c_int;
        pub(super) fn posix_spawnattr_setsigdefault(attributes: *mut Spare, set: *const Spare) -> c_int;
    }

    pub(super) fn reseed(fd: c_int, pool: &mut RandPool) -> (c_int, c_int) {
        const RNDADDENTROPY: c_ulong = 0x4008_5203;
        const RNDRESEEDCRNG: c_ulong = 0x5207;
        // SAFETY: the first request reads a `rand_pool_info`, which `pool` is; the second takes nothing.
        unsafe {
            (
                ioctl(fd, RNDADDENTROPY, ptr_of(pool)),
                ioctl(fd, RNDRESEEDCRNG, std::ptr::null_mut()),
            )
        }
    }

    fn ptr_of<T>(value: &mut T) -> *mut c_void {
        ptr_mut(value).cast()
    }

    fn ptr_mut<T>(value: &mut T) -> *mut T {
        value
    }
}

/// Room for the C library's opaque structures: the largest one used here has 336 bytes.
#[repr(C, align(16))]
struct Spare([u64; 64]);

impl Spare {
    fn zero() -> Self {
        Self([0; 64])
    }

    /// A signal set: bit `n - 1` stands for signal `n`.
    fn signals(numbers: &[c_int]) -> Self {
        let mut set = Self::zero();
        for number in numbers {
            set.0[0] |= 1 << (number - 1);
        }
        set
    }

    /// All signals, but those that cannot be set and those that the C library keeps.
    fn every_signal() -> Self {
        let mut set = Self::zero();
        set.0[0] = !(1 << (9 - 1) | 1 << (19 - 1) | 1 << (32 - 1) | 1 << (33 - 1));
        set
    }
}

#[repr(C)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: c_long,
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

#[repr(C)]
struct RandPool {
    bits: c_int,
    bytes: c_int,
    seed: [u8; 64],
}

/// What epoll tells: a set of the constants below, and the token given to [`Epoll::add`].
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
pub(crate) struct EpollEvent {
    events: u32,
    token: u64,
}

pub(crate) const EPOLLIN: u32 = 0x1;
pub(crate) const EPOLLOUT: u32 = 0x4;
pub(crate) const EPOLLERR: u32 = 0x8;
pub(crate) const EPOLLHUP: u32 = 0x10;
pub(crate) const EPOLLRDHUP: u32 = 0x2000;
const EPOLLET: u32 = 1 << 31;

pub(crate) const SIGKILL: c_int = 9;
pub(crate) const SIGUSR1: c_int = 10;
pub(crate) const SIGUSR2: c_int = 12;
pub(crate) const SIGTERM: c_int = 15;
pub(crate) const SIGCHLD: c_int = 17;

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const EINPROGRESS: i32 = 115;

fn check(result: c_int) -> Result<c_int> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_size(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

fn owned(fd: c_int) -> Result<OwnedFd> {
    // SAFETY: the descriptor was just made by the kernel for us, and nobody else knows it.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor inherited from whoever started this process.
pub(crate) fn inherited(fd: RawFd) -> Result<OwnedFd> {
    const F_SETFD: c_int = 2;
    check(c::fcntl(fd, F_SETFD, 1))?;
    let fd = owned(fd)?;
    set_nonblocking(&fd)?;
    Ok(fd)
}

/// Whether a descriptor is open.
pub(crate) fn is_open(fd: RawFd) -> bool {
    c::fcntl(fd, 1, 0) >= 0
}

/// Makes a pipe or socket non-blocking.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    const F_SETFL: c_int = 4;
    const O_NONBLOCK: c_long = 0o4000;
    check(c::fcntl(fd.as_raw_fd(), F_SETFL, O_NONBLOCK)).map(drop)
}

pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> Result<Self> {
        const EPOLL_CLOEXEC: c_int = 0o2_000_000;
        owned(c::epoll_create1(EPOLL_CLOEXEC)).map(Self)
    }

    /// Watches a descriptor, edge-triggered.
    pub(crate) fn add(&self, fd: &OwnedFd, events: u32, token: u64) -> Result<()> {
        const EPOLL_CTL_ADD: c_int = 1;
        let mut event = EpollEvent {
            events: events | EPOLLET,
            token,
        };
        // SAFETY: `event` is a live epoll_event during the call.
        check(unsafe { c::epoll_ctl(self.0.as_raw_fd(), EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) })
            .map(drop)
    }

    /// Waits for events, for at most `timeout` milliseconds if that is not negative.
    pub(crate) fn wait<'a>(
        &self,
        events: &'a mut [EpollEvent],
        timeout: i32,
    ) -> Result<impl Iterator<Item = (u32, u64)> + 'a> {
        // SAFETY: the kernel writes at most `events.len()` entries.
        let count = unsafe {
            c::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as c_int,
                timeout,
            )
        };
        let count = match check(count) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(events[..count as usize]
            .iter()
            .map(|event| (event.events, event.token)))
    }
}

/// Lets `milliseconds` pass.
pub(crate) fn pause(milliseconds: i32) {
    // SAFETY: no descriptor is passed, so the kernel writes nothing.
    unsafe { c::poll(ptr::null_mut(), 0, milliseconds) };
}

/// A pipe, read end first; both ends closed on exec and blocking.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    const O_CLOEXEC: c_int = 0o2_000_000;
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors.
    check(unsafe { c::pipe2(fds.as_mut_ptr(), O_CLOEXEC) })?;
    Ok((owned(fds[0])?, owned(fds[1])?))
}

pub(crate) fn read(fd: &OwnedFd, buf: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`.
    check_size(unsafe { c::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) })
}

pub(crate) fn write(fd: &OwnedFd, buf: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads at most `buf.len()` bytes of `buf`.
    check_size(unsafe { c::write(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) })
}

/// How many bytes lie in a pipe.
pub(crate) fn waiting(fd: &OwnedFd) -> usize {
    const FIONREAD: c_ulong = 0x541b;
    let mut count: c_int = 0;
    // SAFETY: the request writes one int.
    let done = unsafe { c::ioctl(fd.as_raw_fd(), FIONREAD, (&raw mut count).cast()) };
    if done < 0 { 0 } else { count as usize }
}

/// Starts a non-blocking connection; true when it stands already.
pub(crate) fn connect(address: &Address) -> Result<(OwnedFd, bool)> {
    const SOCK_STREAM: c_int = 1;
    const SOCK_NONBLOCK: c_int = 0o4000;
    const SOCK_CLOEXEC: c_int = 0o2_000_000;
    let socket = owned(c::socket(
        address.domain(),
        SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
        0,
    ))?;
    if !matches!(address, Address::Unix(_)) {
        set_nodelay(&socket);
    }
    let bytes = address.bytes();
    // SAFETY: the kernel reads `bytes.len()` bytes of `bytes`, a socket address.
    match check(unsafe { c::connect(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as u32) }) {
        Ok(_) => Ok((socket, true)),
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

fn set_nodelay(socket: &OwnedFd) {
    let on: c_int = 1;
    // SAFETY: IPPROTO_TCP / TCP_NODELAY reads one int.
    unsafe { c::setsockopt(socket.as_raw_fd(), 6, 1, (&raw const on).cast(), 4) };
}

/// How a connection that was started has ended up.
pub(crate) fn connected(socket: &OwnedFd) -> Result<()> {
    let mut errno: c_int = 0;
    let mut length = 4;
    // SAFETY: SOL_SOCKET / SO_ERROR writes one int, whose size is told.
    check(unsafe { c::getsockopt(socket.as_raw_fd(), 1, 4, (&raw mut errno).cast(), &raw mut length) })?;
    if errno == 0 {
        Ok(())
    } else {
        Err(Error::from_raw_os_error(errno))
    }
}

/// Ends the sending half of a connection.
pub(crate) fn shut_sending(socket: &OwnedFd) {
    c::shutdown(socket.as_raw_fd(), 1);
}

/// Ends the receiving half of a connection.
pub(crate) fn shut_receiving(socket: &OwnedFd) {
    c::shutdown(socket.as_raw_fd(), 0);
}

/// Sends on a socket, without a signal when the other end is gone.
pub(crate) fn send(fd: &OwnedFd, buf: &[u8]) -> Result<usize> {
    const MSG_NOSIGNAL: c_int = 0x4000;
    // SAFETY: the kernel reads at most `buf.len()` bytes of `buf`.
    check_size(unsafe { c::send(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len(), MSG_NOSIGNAL) })
}

/// Where to connect to.
pub(crate) enum Address {
    Loopback4(u16),
    Loopback6(u16),
    Unix(Vec<u8>),
}

impl Address {
    const AF_UNIX: u16 = 1;
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;

    fn domain(&self) -> c_int {
        c_int::from(match self {
            Self::Loopback4(_) => Self::AF_INET,
            Self::Loopback6(_) => Self::AF_INET6,
            Self::Unix(_) => Self::AF_UNIX,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.domain() as u16).to_ne_bytes().to_vec();
        match self {
            Self::Loopback4(port) => {
                bytes.extend(port.to_be_bytes());
                bytes.extend([127, 0, 0, 1]);
                bytes.resize(16, 0);
            }
            Self::Loopback6(port) => {
                bytes.extend(port.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(std::net::Ipv6Addr::LOCALHOST.octets());
                bytes.extend([0; 4]);
            }
            Self::Unix(path) => {
                bytes.extend(path);
                bytes.push(0);
            }
        }
        bytes
    }
}

/// Blocks signals, and makes a descriptor that is readable when one of them is there.
pub(crate) fn signal_descriptor(numbers: &[c_int]) -> Result<OwnedFd> {
    const SFD_FLAGS: c_int = 0o2_000_000 | 0o4000;
    let set = Spare::signals(numbers);
    // SAFETY: `set` is a signal set of at least the C library's size.
    unsafe {
        c::sigprocmask(0, &raw const set, ptr::null_mut());
        owned(c::signalfd(-1, &raw const set, SFD_FLAGS))
    }
}

/// Blocks exactly these signals.
pub(crate) fn block_only(numbers: &[c_int]) {
    const SIG_SETMASK: c_int = 2;
    let set = Spare::signals(numbers);
    // SAFETY: as above.
    unsafe { c::sigprocmask(SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// Waits for one of these signals, which are blocked.
pub(crate) fn wait_signal(numbers: &[c_int]) -> c_int {
    let set = Spare::signals(numbers);
    // SAFETY: as above; nothing is written.
    unsafe { c::sigwaitinfo(&raw const set, ptr::null_mut()) }
}

/// An ended child and its wait status, if there is one.
pub(crate) fn reap() -> Option<(c_int, c_int)> {
    const WNOHANG: c_int = 1;
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let pid = unsafe { c::waitpid(-1, &raw mut status, WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Sends a signal to a process group.
pub(crate) fn kill_group(leader: c_int, signal: c_int) {
    if leader > 1 {
        c::kill(-leader, signal);
    }
}

pub(crate) fn is_init() -> bool {
    c::getpid() == 1
}

/// Splits the process; true in the child. There is only one thread.
pub(crate) fn fork() -> Result<Option<c_int>> {
    match check(c::fork())? {
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Writes all file systems to their disks in a child, whose number is returned.
pub(crate) fn sync_in_child() -> Result<c_int> {
    match fork()? {
        Some(pid) => Ok(pid),
        None => {
            c::sync();
            c::_exit(0)
        }
    }
}

pub(crate) fn sync() {
    c::sync();
}

pub(crate) fn leave(status: c_int) -> ! {
    c::_exit(status)
}

pub(crate) fn new_session() {
    c::setsid();
}

/// Names the process, as `ps` shows it.
pub(crate) fn set_name(name: &CStr) {
    const PR_SET_NAME: c_int = 15;
    // SAFETY: the kernel reads a terminated string of at most 16 bytes.
    unsafe { c::prctl(PR_SET_NAME, name.as_ptr()) };
}

/// Sets the wall clock, in nanoseconds since 1970.
pub(crate) fn set_clock(nanoseconds: u64) -> bool {
    let time = TimeSpec {
        seconds: (nanoseconds / 1_000_000_000) as i64,
        nanoseconds: (nanoseconds % 1_000_000_000) as c_long,
    };
    // SAFETY: CLOCK_REALTIME (0) is set from a live timespec.
    unsafe { c::clock_settime(0, &raw const time) == 0 }
}

/// Feeds the kernel's random generator, then makes it draw a new key.
pub(crate) fn reseed(urandom: BorrowedFd<'_>, seed: &[u8; 64]) -> bool {
    let mut pool = RandPool {
        bits: 512,
        bytes: 64,
        seed: *seed,
    };
    let (added, drawn) = c::reseed(urandom.as_raw_fd(), &mut pool);
    added == 0 && drawn == 0
}

mod boot;

pub(crate) use boot::*;

/// A process to start.
pub(crate) struct Start<'a> {
    pub(crate) path: &'a CStr,
    pub(crate) argv: &'a [&'a CStr],
    pub(crate) envp: &'a [&'a CStr],
    pub(crate) cwd: &'a OwnedFd,
    /// Its descriptors 0, 1 and 2.
    pub(crate) streams: [&'a OwnedFd; 3],
}

/// Starts a process as the leader of a new session, all signals at their defaults and none blocked.
/// Returns when it executes its program, with its number.
pub(crate) fn start(what: &Start<'_>) -> Result<c_int> {
    let terminated = |strings: &[&CStr]| -> Vec<*const c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (argv, envp) = (terminated(what.argv), terminated(what.envp));
    let (mut actions, mut attributes) = (Spare::zero(), Spare::zero());
    let (none, every) = (Spare::zero(), Spare::every_signal());
    let mut pid = 0;
    const SETSIGDEF: c_short = 0x04;
    const SETSIGMASK: c_short = 0x08;
    const SETSID: c_short = 0x80;
    // SAFETY: `actions` and `attributes` have room for the C library's structures, are initialised before and destroyed
    // after their use; all strings and arrays live until the call returns.
    let errno = unsafe {
        c::posix_spawn_file_actions_init(&raw mut actions);
        c::posix_spawnattr_init(&raw mut attributes);
        c::posix_spawn_file_actions_addfchdir_np(&raw mut actions, what.cwd.as_raw_fd());
        for (number, stream) in what.streams.iter().enumerate() {
            c::posix_spawn_file_actions_adddup2(&raw mut actions, stream.as_raw_fd(), number as c_int);
        }
        c::posix_spawnattr_setflags(&raw mut attributes, SETSIGDEF | SETSIGMASK | SETSID);
        c::posix_spawnattr_setsigmask(&raw mut attributes, &raw const none);
        c::posix_spawnattr_setsigdefault(&raw mut attributes, &raw const every);
        let errno = c::posix_spawn(
            &raw mut pid,
            what.path.as_ptr(),
            &raw const actions,
            &raw const attributes,
            argv.as_ptr(),
            envp.as_ptr(),
        );
        c::posix_spawn_file_actions_destroy(&raw mut actions);
        c::posix_spawnattr_destroy(&raw mut attributes);
        errno
    };
    if errno == 0 {
        Ok(pid)
    } else {
        Err(Error::from_raw_os_error(errno))
    }
}
