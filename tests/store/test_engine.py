def test_x(store):
    assert store.is_current()
def test_y(context):
    assert context.checks()["migrations"] == "ok"
