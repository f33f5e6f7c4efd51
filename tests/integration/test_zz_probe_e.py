import time
from tests.integration.periodic_rig import *
def test_drain(pair_18):
    a,b=pair_18
    make_group(a,b)
    b.stop()
    t0=time.time()
    a.database.psql("DO $$ BEGIN FOR i IN 1..20000 LOOP INSERT INTO t SELECT i*10+g, 'row '||i||g FROM generate_series(0,9) g; COMMIT; END LOOP; END $$")
    print('written', time.time()-t0)
    time.sleep(2)
    b.start()
    t0=time.time()
    last=0
    while True:
        n=int(b.database.psql("SELECT count(*) FROM t"))
        if n!=last: print(round(time.time()-t0,2), n, flush=True); last=n
        if n>=200000 or time.time()-t0>120: break
        time.sleep(0.2)
    print(b.log[-1500:])
def test_line(make_database, make_node):
    a=make_node("server-a", make_database(18), reachable=False)
    b=make_node("server-b", make_database(18,nth=1))
    a.pair_with(b)
    make_group(a,b)
    a.database.psql("INSERT INTO t VALUES (1,'x')")
    b.database.psql("INSERT INTO t VALUES (2,'y')")
    t0=time.time(); wait_equal(a,b,seconds=60); print('equal after', time.time()-t0)
    t0=time.time(); a.database.psql("INSERT INTO t VALUES (3,'x')"); wait_equal(a,b); print('a to b', time.time()-t0)
    print(b.run("lag",check=False).out)
    print(b.log)
