//! The calls that only a starting or ending system makes.

use super::*;

pub(crate) const MS_RDONLY: c_ulong = 1;
pub(crate) const MS_NOSUID: c_ulong = 2;
pub(crate) const MS_NODEV: c_ulong = 4;
pub(crate) const MS_NOEXEC: c_ulong = 8;
pub(crate) const MS_MOVE: c_ulong = 8192;

pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: c_ulong, data: &CStr) -> Result<()> {
    // SAFETY: four terminated strings.
    check(unsafe {
        c::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr(),
        )
    })
    .map(drop)
}

pub(crate) fn set_hostname(name: &CStr) {
    // SAFETY: a string and its length.
    unsafe { c::sethostname(name.as_ptr(), name.count_bytes()) };
}

/// Closes every descriptor but the standard streams when another program is executed: whoever started
/// this process may have left some open.
pub(crate) fn keep_descriptors() {
    const CLOSE_RANGE: c_long = 436;
    const CLOSE_RANGE_CLOEXEC: c_int = 4;
    // SAFETY: three integers; an old kernel refuses, and then nothing has changed.
    unsafe { c::syscall(CLOSE_RANGE, 3, c_int::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// Loads a kernel module from its file.
pub(crate) fn load_module(file: &OwnedFd) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    const FINIT_MODULE: c_long = 313;
    #[cfg(not(target_arch = "x86_64"))]
    const FINIT_MODULE: c_long = 273;
    // SAFETY: a descriptor, a terminated string of options, and flags.
    let done = unsafe { c::syscall(FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0 as c_int) };
    if done < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Brings the loopback interface up.
pub(crate) fn loopback_up() -> Result<()> {
    const SIOCGIFFLAGS: c_ulong = 0x8913;
    const SIOCSIFFLAGS: c_ulong = 0x8914;
    const IFF_UP: u8 = 1;
    let socket = owned(c::socket(2, 2 | 0o2_000_000, 0))?;
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    // SAFETY: an ifreq has 40 bytes: a name of 16, then the flags.
    unsafe {
        check(c::ioctl(
            socket.as_raw_fd(),
            SIOCGIFFLAGS,
            request.as_mut_ptr().cast(),
        ))?;
        request[16] |= IFF_UP;
        check(c::ioctl(
            socket.as_raw_fd(),
            SIOCSIFFLAGS,
            request.as_mut_ptr().cast(),
        ))
        .map(drop)
    }
}

/// What becomes of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Power {
    Restart = 0x0123_4567,
    Off = 0x4321_fedc,
}

pub(crate) fn power(how: Power) -> Result<()> {
    check(c::reboot(how as c_int)).map(drop)
}
