//! A database that is started once, and that each test may change as it likes.

use vmtest::prelude::*;

/// Runs once, whatever the number of tests and processes; what it leaves is frozen, with the server running.
#[vm_snapshot(image = "pg", name = "ready")]
async fn ready(vm: Vm) -> Result {
    vm.sh("systemctl start postgresql").await?.check()?;
    vm.wait_for(Port(5432)).await?;
    sql(&vm, "create table accounts (name text primary key, balance int)").await?;
    sql(&vm, "insert into accounts values ('ada', 100), ('bob', 0)").await?;
    Ok(())
}

/// What the server answers, columns separated by `|`.
async fn sql(vm: &Vm, statement: &str) -> Result<String> {
    let psql = vm
        .command("runuser")
        .args(["-u", "postgres", "--", "psql", "-v", "ON_ERROR_STOP=1", "-qtAc"]);
    Ok(psql
        .arg(statement)
        .cwd("/tmp")
        .await?
        .check()?
        .text()
        .into_owned())
}

#[vm_test(image = "pg", snapshot = "ready")]
async fn money_is_moved(vm: Vm) -> Result {
    sql(
        &vm,
        "update accounts set balance = balance - 30 where name = 'ada'",
    )
    .await?;
    sql(
        &vm,
        "update accounts set balance = balance + 30 where name = 'bob'",
    )
    .await?;

    assert_eq!(
        sql(&vm, "select * from accounts order by name").await?,
        "ada|70\nbob|30"
    );
    Ok(())
}

#[vm_test(image = "pg", snapshot = "ready")]
async fn a_table_is_dropped(vm: Vm) -> Result {
    // Not what the other test left, whichever came first.
    assert_eq!(
        sql(&vm, "select * from accounts order by name").await?,
        "ada|100\nbob|0"
    );

    sql(&vm, "drop table accounts").await?;

    assert!(sql(&vm, "select * from accounts").await.is_err());
    Ok(())
}

#[vm_test(image = "pg", snapshot = "ready")]
async fn a_crash_loses_no_committed_row(vm: Vm) -> Result {
    sql(&vm, "insert into accounts values ('eve', 7)").await?;
    let server = sql(&vm, "select pg_postmaster_start_time()").await?;

    vm.sh("pkill -KILL postgres").await?.check()?;
    vm.sh("systemctl restart postgresql@*-main.service || systemctl restart postgresql")
        .await?
        .check()?;
    vm.wait_for(Port(5432)).await?;

    assert_ne!(sql(&vm, "select pg_postmaster_start_time()").await?, server);
    assert_eq!(
        sql(&vm, "select balance from accounts where name = 'eve'").await?,
        "7"
    );
    Ok(())
}
