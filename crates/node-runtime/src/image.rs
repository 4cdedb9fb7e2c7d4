//! `file:` images: which file is meant, and whether the node allows it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use crate::RuntimeError;

/// What the file has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageKind {
    Executable,
    #[cfg(feature = "wasm")]
    Module,
}

/// The file an image names, checked: it exists, is a plain file, and is under an allowed prefix both as written and
/// with its symbolic links followed.
pub(crate) fn resolve(image: &str, prefixes: &[PathBuf], kind: ImageKind) -> Result<PathBuf, RuntimeError> {
    let bad = |reason: String| RuntimeError::Image { image: image.to_owned(), reason };
    let path = path_of(image).map_err(|reason| bad(reason.to_owned()))?;
    if !is_allowed(&path, prefixes) {
        return Err(not_allowed(image, prefixes));
    }
    let real = fs::canonicalize(&path)
        .map_err(|error| bad(format!("{}: {error}; put the file there on the node", path.display())))?;
    if !is_allowed(&real, &real_prefixes(prefixes)) {
        return Err(not_allowed(&format!("{image} (a link to {})", real.display()), prefixes));
    }
    let meta = fs::metadata(&real).map_err(|error| bad(format!("{}: {error}", real.display())))?;
    if !meta.is_file() {
        return Err(bad(format!("{} is not a file", path.display())));
    }
    if kind == ImageKind::Executable && meta.permissions().mode() & 0o111 == 0 {
        return Err(bad(format!("{} is not executable; chmod +x it on the node", path.display())));
    }
    Ok(path)
}

fn path_of(image: &str) -> Result<PathBuf, &'static str> {
    let rest = image.strip_prefix("file:").ok_or("this runtime runs files of the node; write file:///path")?;
    let path = match rest.strip_prefix("//") {
        Some(path) => path,
        None => rest,
    };
    if !path.starts_with('/') {
        return Err("the path must be absolute, as in file:///bin/x");
    }
    let path = Path::new(path);
    if path.components().any(|part| !matches!(part, Component::RootDir | Component::Normal(_))) {
        return Err("the path must not contain `..`");
    }
    Ok(path.components().collect())
}

fn is_allowed(path: &Path, prefixes: &[PathBuf]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

/// `/bin` is a link to `/usr/bin` on most nodes; whoever allows the one means the other as well.
fn real_prefixes(prefixes: &[PathBuf]) -> Vec<PathBuf> {
    prefixes.iter().filter_map(|prefix| fs::canonicalize(prefix).ok()).collect()
}

fn not_allowed(image: &str, prefixes: &[PathBuf]) -> RuntimeError {
    let allowed = prefixes.iter().map(|prefix| prefix.display().to_string()).collect::<Vec<_>>().join(", ");
    let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed };
    RuntimeError::ImageNotAllowed { image: image.to_owned(), allowed }
}

/// The program that a command's first word means, by the container's `PATH`; it must be allowed as an image would be.
pub(crate) fn resolve_command(word: &str, path_var: &str, prefixes: &[PathBuf]) -> Result<PathBuf, RuntimeError> {
    if word.contains('/') {
        return resolve(&format!("file://{word}"), prefixes, ImageKind::Executable);
    }
    let found = path_var.split(':').map(|dir| Path::new(dir).join(word)).find(|path| path.is_file());
    match found {
        Some(path) => resolve(&format!("file://{}", path.display()), prefixes, ImageKind::Executable),
        None => {
            Err(RuntimeError::Image { image: word.to_owned(), reason: format!("no such program in PATH {path_var}") })
        }
    }
}

#[cfg(test)]
mod tests;
