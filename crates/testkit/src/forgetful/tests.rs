//! The disk forgets what it should, keeps what it must, and does the same for the same seed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;

use super::*;

fn mount(test: &str) -> Option<ForgetfulDisk> {
    ForgetfulDisk::mount_or_skip(test)
}

fn sync_directory(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn restart(disk: &ForgetfulDisk, seed: u64) {
    disk.cut(seed);
    disk.power_on();
}

#[test]
fn what_was_synced_survives_every_cut() {
    let Some(disk) = mount("what_was_synced_survives_every_cut") else { return };
    let path = disk.path().join("kept");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"kept").unwrap();
    file.sync_all().unwrap();
    sync_directory(disk.path());
    for seed in 0..50 {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"lost or not", 4096).unwrap();
        restart(&disk, seed);
        assert_eq!(&fs::read(&path).unwrap()[..4], b"kept", "seed {seed}");
        assert!(file.write_all_at(b"x", 0).is_err(), "the handle is from before the cut");
    }
}

#[test]
fn what_was_not_synced_is_lost_by_some_seeds_and_torn_by_others() {
    let Some(disk) = mount("what_was_not_synced_is_lost_by_some_seeds_and_torn_by_others") else { return };
    let (mut whole, mut none, mut torn) = (0, 0, 0);
    for seed in 0..60 {
        let path = disk.path().join(format!("file-{seed}"));
        let file = File::create(&path).unwrap();
        file.set_len(4096).unwrap();
        file.sync_all().unwrap();
        sync_directory(disk.path());
        file.write_all_at(&[1; 4096], 0).unwrap();
        restart(&disk, seed);
        match fs::read(&path).unwrap().iter().filter(|byte| **byte == 1).count() {
            4096 => whole += 1,
            0 => none += 1,
            some => {
                assert_eq!(some % 512, 0);
                torn += 1;
            }
        }
    }
    assert!(whole > 0 && none > 0 && torn > 0, "whole {whole}, none {none}, torn {torn}");
}

#[test]
fn the_same_seed_forgets_the_same() {
    let survivors = |seed| {
        let disk = mount("the_same_seed_forgets_the_same")?;
        let file = File::create(disk.path().join("file")).unwrap();
        sync_directory(disk.path());
        file.write_all_at(&[7; 64 << 10], 0).unwrap();
        restart(&disk, seed);
        Some(fs::read(disk.path().join("file")).unwrap())
    };
    let Some(first) = survivors(3) else { return };
    assert_eq!(survivors(3), Some(first.clone()));
    assert!((4..20).any(|seed| survivors(seed) != Some(first.clone())));
}

#[test]
fn a_rename_happened_or_did_not() {
    let Some(disk) = mount("a_rename_happened_or_did_not") else { return };
    let path = disk.path().join("settings");
    let draft = disk.path().join("settings.new");
    let write = |path: &Path, text: &str| {
        let mut file = File::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
    };
    write(&path, "0");
    sync_directory(disk.path());
    let mut before = "0".to_owned();
    let mut kept = 0;
    for seed in 1..40 {
        let text = seed.to_string();
        write(&draft, &text);
        fs::rename(&draft, &path).unwrap();
        restart(&disk, seed);
        let found = fs::read_to_string(&path).unwrap();
        assert!(found == text || found == before, "{found} is neither {text} nor {before}");
        kept += u32::from(found == text);
        before = found;
    }
    assert!(kept > 0 && kept < 39);
}

#[test]
fn a_full_disk_says_so_and_takes_writes_again_when_there_is_space() {
    let Some(disk) = mount("a_full_disk_says_so_and_takes_writes_again_when_there_is_space") else { return };
    let file = File::create(disk.path().join("file")).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    disk.set_space_left(Some(4096));
    file.write_all_at(&[2; 4096], 4096).unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(file.write_all_at(&[3; 1], 8192).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_all_at(&[4; 4096], 0).unwrap();
    file.set_len(4096).unwrap();
    file.write_all_at(&[5; 4096], 4096).unwrap();
    disk.set_space_left(None);
    file.write_all_at(&[6; 1 << 20], 8192).unwrap();
}

#[test]
fn the_power_fails_in_the_middle_of_work() {
    let Some(disk) = mount("the_power_fails_in_the_middle_of_work") else { return };
    let file = File::create(disk.path().join("file")).unwrap();
    disk.cut_in(2, 1);
    file.write_all_at(b"one", 0).unwrap();
    file.sync_all().unwrap();
    assert!(file.write_all_at(b"two", 3).is_err());
    assert!(fs::read_dir(disk.path()).is_err());
    disk.power_on();
    assert!(fs::read_dir(disk.path()).is_ok());
}

#[test]
fn directories_hard_links_and_removal_work_as_programs_expect() {
    let Some(disk) = mount("directories_hard_links_and_removal_work_as_programs_expect") else { return };
    let directory = disk.path().join("a/b");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("one"), "1").unwrap();
    fs::hard_link(directory.join("one"), directory.join("two")).unwrap();
    fs::remove_file(directory.join("one")).unwrap();
    assert_eq!(fs::read_to_string(directory.join("two")).unwrap(), "1");
    assert_eq!(fs::remove_dir(&directory).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    fs::remove_dir_all(disk.path().join("a")).unwrap();
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}
