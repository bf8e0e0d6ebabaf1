//! The description of a built image, in its folder: what [`find`](super::Plan::find) reads.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmtest_backends::Result;
use vmtest_backends::spec::Image;

use super::shelf::{Shelf, unusable, write_json};

/// Its name inside the image's folder.
pub(super) const FILE: &str = "image.json";

/// A built image. Its paths are relative to the shelf, so that a cache can be moved.
#[derive(Debug, Serialize, Deserialize)]
struct Built {
    image: Image,
    files: Vec<(PathBuf, u64)>,
}

/// Describes `image` in `folder`, which will be found on the shelf under `digest`.
pub(super) fn save(shelf: &Shelf, folder: &Path, digest: &str, mut image: Image) -> Result<()> {
    let place = shelf.place(digest);
    let mut files = Vec::new();
    for path in paths(&mut image) {
        let meta = fs::metadata(&*path).map_err(|cause| unusable(path, "is missing", cause))?;
        let published = path
            .strip_prefix(folder)
            .map(|rest| place.join(rest))
            .unwrap_or(path.clone());
        let relative = published
            .strip_prefix(shelf.root())
            .map(Path::to_owned)
            .unwrap_or(published);
        if meta.is_file() {
            files.push((relative.clone(), meta.len()));
        }
        *path = relative;
    }
    write_json(&folder.join(FILE), &Built { image, files })
}

/// The image on the shelf under `digest`, if all of its files are there with their sizes.
pub(super) fn find(shelf: &Shelf, digest: &str) -> Result<Option<Image>> {
    let path = shelf.place(digest).join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(unusable(&path, "cannot be read", cause)),
    };
    // What cannot be understood was written by another version or is damaged: it is built anew.
    let Ok(mut built) = serde_json::from_slice::<Built>(&text) else {
        return Ok(None);
    };
    let there = |(file, size): &(PathBuf, u64)| {
        fs::metadata(shelf.root().join(file)).is_ok_and(|meta| meta.len() == *size)
    };
    if !built.files.iter().all(there) {
        return Ok(None);
    }
    for path in paths(&mut built.image) {
        *path = shelf.root().join(&*path);
    }
    Ok(Some(built.image))
}

/// The keys of the other things on the shelf that the image under `digest` refers to.
pub(super) fn uses(shelf: &Shelf, digest: &str) -> BTreeSet<String> {
    let text = fs::read(shelf.place(digest).join(FILE)).unwrap_or_default();
    let Ok(mut built) = serde_json::from_slice::<Built>(&text) else {
        return BTreeSet::new();
    };
    let heads = paths(&mut built.image).filter_map(|path| {
        let first = path.components().next()?.as_os_str().to_str()?;
        Some(first.to_owned())
    });
    heads.filter(|key| key != digest).collect()
}

fn paths(image: &mut Image) -> impl Iterator<Item = &mut PathBuf> {
    let Image {
        kernel,
        initrd,
        disks,
        seed,
        ..
    } = image;
    let disks = disks.iter_mut().map(|disk| &mut disk.path);
    [kernel, initrd, seed]
        .into_iter()
        .filter_map(Option::as_mut)
        .chain(disks)
}
