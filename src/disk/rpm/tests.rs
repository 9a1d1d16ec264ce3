use super::*;
use std::fs;
use tempfile::TempDir;

const DEFINITION: &str =
    "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,blob BLOB NOT NULL)";

/// A record of a package of this name, with so many bytes of nothing in it.
fn record(name: &str, filling: usize) -> Vec<u8> {
    let data = [name.as_bytes(), b"\x001\x002\0", &vec![0; filling]].concat();
    let (version, release) = (name.len() as u32 + 1, name.len() as u32 + 3);
    let entries = [(1000u32, 0), (1001, version), (1002, release)];
    let index = entries.map(|(tag, offset)| [tag, 6, offset, 1].map(u32::to_be_bytes).concat()).concat();
    [&3u32.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &index, &data].concat()
}

/// What made it goes without writing its log into the database.
fn made(sql: &str, records: &[Vec<u8>]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(folder.path().join("rpmdb.sqlite")).unwrap();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    connection.execute_batch(sql).unwrap();
    for record in records {
        connection.execute("INSERT INTO Packages (blob) VALUES (?1)", [record]).unwrap();
    }
    folder
}

fn read(folder: &TempDir) -> Result<Vec<String>, RpmError> {
    let begun = Instant::now();
    let read = packages(&folder.path().join("rpmdb.sqlite"), &Patience::unlimited(&Default::default()));
    assert!(begun.elapsed() < TIME + Duration::from_secs(10), "{:?}", begun.elapsed());
    Ok(read?.into_iter().map(|p| format!("{} {}", p.name, p.version)).collect())
}

fn said(folder: &TempDir) -> String {
    read(folder).unwrap_err().to_string()
}

#[test]
fn packages_come_in_order_also_from_the_log() {
    let folder =
        made(&format!("PRAGMA journal_mode = WAL; {DEFINITION}"), &[record("b", 0), record("a", 9999)]);
    assert!(fs::metadata(folder.path().join("rpmdb.sqlite-wal")).unwrap().len() > 0);
    assert_eq!(read(&folder).unwrap(), ["b 1-2", "a 1-2"]);
    fs::remove_file(folder.path().join("rpmdb.sqlite-wal")).unwrap();
    assert_eq!(said(&folder), "it has no table of packages that is made as rpm makes it");
    assert_eq!(read(&made(DEFINITION, &[])).unwrap(), [""; 0]);
}

/// As below a home folder that is kept on a larger disk.
#[test]
fn the_folder_may_be_reached_through_a_link() {
    let (folder, elsewhere) = (
        made(&format!("PRAGMA journal_mode = WAL; {DEFINITION}"), &[record("a", 0)]),
        tempfile::tempdir().unwrap(),
    );
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    let read = packages(&link.join("rpmdb.sqlite"), &Patience::unlimited(&Default::default())).unwrap();
    assert_eq!(read.into_iter().map(|p| p.name).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn nobody_who_called_it_off_waits() {
    let patience = Patience::unlimited(&Default::default());
    patience.cancel.cancel();
    let folder = made(DEFINITION, &[record("a", 0)]);
    let ended = packages(&folder.path().join("rpmdb.sqlite"), &patience);
    assert!(matches!(ended, Err(RpmError::Impatience(_))), "{ended:?}");
}

#[test]
fn a_table_is_as_rpm_makes_it_or_not_asked() {
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x";
    let slow = "x TEXT, y GENERATED ALWAYS AS (replace(hex(x), 'a', hex(x)))";
    for other in [
        format!("CREATE VIEW Packages AS {endless} AS hnum, zeroblob(9) AS blob FROM c"),
        "CREATE VIRTUAL TABLE Packages USING fts5(hnum, blob)".into(),
        format!("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB, {slow})"),
        "CREATE TABLE Package (hnum INTEGER PRIMARY KEY, blob BLOB)".into(),
        String::new(),
    ] {
        assert_eq!(said(&made(&other, &[])), RpmError::Table.to_string(), "{other}");
    }
    // One that only says so is found out by SQLite.
    let lie = format!(
        "CREATE VIEW Packages AS {endless} AS hnum, zeroblob(9) AS blob FROM c; PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET type = 'table', rootpage = 1"
    );
    assert!(said(&made(&lie, &[])).contains("malformed database schema"), "{}", said(&made(&lie, &[])));
}

#[test]
fn work_is_limited() {
    let many: String = (0..5000).map(|n| format!("CREATE TABLE t{n} (a);")).collect();
    assert_eq!(said(&made(&format!("BEGIN; {many} {DEFINITION}; COMMIT"), &[])), RpmError::Work.to_string());
    let long = format!("CREATE TABLE t (a CHECK (a IN ({}1)));", "1,".repeat(4000));
    assert!(said(&made(&format!("{long} {DEFINITION}"), &[])).starts_with("SQLite says"));

    let fill = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1000000)
                INSERT INTO Packages (blob) SELECT ?1 FROM c";
    let folder = made(DEFINITION, &[]);
    let connection = Connection::open(folder.path().join("rpmdb.sqlite")).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    connection.execute(fill, [record("a", 0)]).unwrap();
    assert_eq!(said(&folder), RpmError::Packages.to_string());
    // As many as there may be.
    connection.execute("DELETE FROM Packages WHERE hnum > ?1", [MOST_PACKAGES]).unwrap();
    assert_eq!(read(&folder).unwrap().len(), MOST_PACKAGES);
}

#[test]
fn a_record_that_is_not_sound_is_named() {
    let folder = made(DEFINITION, &[record("a", 0), record("a", 0)[..20].to_vec()]);
    assert_eq!(said(&folder), "the record of package 2 is not sound: its index is cut off");
    let text = made(&format!("{DEFINITION}; INSERT INTO Packages VALUES (7, 'text')"), &[]);
    assert_eq!(said(&text), "the record of package 7 is not sound: it is no row of bytes");
}

#[test]
fn damaged_files_are_errors_or_what_is_left_of_them() {
    let records: Vec<_> = (0..40).map(|n| record(&format!("p{n}"), 100 * n)).collect();
    let folder = made(DEFINITION, &records);
    let path = folder.path().join("rpmdb.sqlite");
    let sound = fs::read(&path).unwrap();
    assert_eq!(read(&folder).unwrap().len(), 40);
    // Of the last page only the end of a record is missing, which holds nothing.
    for length in (1..sound.len() - 4096).step_by(997) {
        fs::write(&path, &sound[..length]).unwrap();
        assert!(read(&folder).is_err(), "{length} of {} bytes", sound.len());
    }
    // The same bytes each time: a failure can be looked into.
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..300 {
        let mut bytes = sound.clone();
        for _ in 0..20 {
            let at = random() % bytes.len();
            bytes[at] = random() as u8;
        }
        fs::write(&path, &bytes).unwrap();
        let _ = read(&folder);
    }
    let noise: Vec<u8> = (0..100_000).map(|_| random() as u8).collect();
    fs::write(&path, &noise).unwrap();
    assert_eq!(said(&folder), "SQLite says: file is not a database");
    fs::write(&path, &sound).unwrap();
    fs::write(path.with_extension("sqlite-wal"), &noise).unwrap();
    assert_eq!(read(&folder).unwrap().len(), 40, "a log of noise says nothing");
}

/// Rows whose bytes lie in the same pages would be many times what the file has.
#[test]
fn records_share_no_pages() {
    const PAGE: usize = 4096;
    // Of such a length SQLite keeps 489 bytes beside the row's number, so that all rows are in one page.
    let large = |name: &str| record(name, 484 + 4092 * 100 - record(name, 0).len());
    let folder = made(&format!("PRAGMA page_size = {PAGE}; {DEFINITION}"), &[large("a")]);
    let path = folder.path().join("rpmdb.sqlite");
    let alone = fs::metadata(&path).unwrap().len() as usize;
    let connection = Connection::open(&path).unwrap();
    for _ in 0..4 {
        connection.execute("INSERT INTO Packages (blob) VALUES (?1)", [large("a")]).unwrap();
    }
    drop(connection);
    assert_eq!(read(&folder).unwrap().len(), 5);
    let mut bytes = fs::read(&path).unwrap();
    // The table's page: where each row begins (its length in 3 bytes, its number, 489 bytes, the next page).
    let row = |bytes: &[u8], n: usize| {
        PAGE + usize::from(bytes[PAGE + 8 + 2 * n]) * 256 + usize::from(bytes[PAGE + 9 + 2 * n])
    };
    let next = row(&bytes, 0) + 4 + 489;
    let shared = bytes[next..next + 4].to_vec();
    for n in 1..5 {
        let next = row(&bytes, n) + 4 + 489;
        bytes[next..next + 4].copy_from_slice(&shared);
    }
    bytes.truncate(alone);
    bytes[28..32].copy_from_slice(&((alone / PAGE) as u32).to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    assert_eq!(said(&folder), "its records are larger than itself");
}
