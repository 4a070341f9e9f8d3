package couchgen

const viewsDoc = "_design/by_type"

func viewsBody(bool) Object { return Object{} }

func writeViews(g *Generator, db *Database, s *Shard, o DirOptions) error { return nil }
