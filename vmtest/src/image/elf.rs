//! Just enough of ELF to read one section of a kernel module (64 bit, little endian).

/// The content of the section called `name`, if the file is well-formed and has it.
pub(super) fn section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64_at(file, 0x28)?).ok()?;
    let size = usize::from(u16_at(file, 0x3a)?);
    let count = usize::from(u16_at(file, 0x3c)?);
    let names_index = usize::from(u16_at(file, 0x3e)?);
    let header = |index: usize| file.get(table.checked_add(index.checked_mul(size)?)?..);
    let names = content(file, header(names_index)?)?;
    (0..count)
        .filter_map(header)
        .find(|header| name_of(header, names) == Some(name.as_bytes()))
        .and_then(|header| content(file, header))
}

fn name_of<'a>(header: &[u8], names: &'a [u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(u32_at(header, 0)?).ok()?;
    names.get(start..)?.split(|byte| *byte == 0).next()
}

fn content<'a>(file: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let offset = usize::try_from(u64_at(header, 0x18)?).ok()?;
    let size = usize::try_from(u64_at(header, 0x20)?).ok()?;
    file.get(offset..offset.checked_add(size)?)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
