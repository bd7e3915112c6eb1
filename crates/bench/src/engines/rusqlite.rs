//! SQLite through rusqlite: a table of blobs in WAL mode. Each append is a transaction of its own.

use std::path::Path;
use std::sync::Mutex;

use ::rusqlite::{Connection, params};

use crate::engine::{Engine, Mode, Replay, Result, Segments, Setup, Spec, Tally, lock};

pub(crate) fn spec() -> Spec {
    Spec {
        name: "rusqlite",
        what: "rusqlite 0.43.0 with its bundled SQLite: a table, WAL mode, its own checkpoints",
        sharing: "one connection in a mutex; no sync is shared",
        durable: Some("synchronous=FULL: on disk, by fdatasync of the WAL"),
        batch: Some("one transaction"),
        buffered: Some("synchronous=NORMAL: handed to the system; synced at its checkpoints"),
        replay: Some("rows of the table in order; pages are not verified"),
        segments: Segments::None,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let connection = Connection::open(dir.join("log.sqlite"))?;
    let synchronous = match setup.mode {
        Mode::Durable | Mode::Read => "FULL",
        Mode::Buffered => "NORMAL",
        Mode::Load(_) => "OFF",
    };
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS log (lsn INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
    )?;
    Ok(Box::new(Log(Mutex::new(connection))))
}

struct Log(Mutex<Connection>);

const INSERT: &str = "INSERT INTO log (payload) VALUES (?1)";

impl Engine for Log {
    fn append(&self, _worker: usize, payload: &[u8]) -> Result<()> {
        lock(&self.0).prepare_cached(INSERT)?.execute(params![payload])?;
        Ok(())
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let mut connection = lock(&self.0);
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            for payload in payloads {
                insert.execute(params![payload])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn sync(&self) -> Result<()> {
        lock(&self.0).query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))?;
        Ok(())
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        let connection = lock(&self.0);
        let mut select = connection.prepare("SELECT payload FROM log ORDER BY lsn")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            tally.see(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        let connection = self.0.into_inner().map_err(|_| "a thread panicked")?;
        connection.close().map_err(|(_, error)| error.into())
    }
}
