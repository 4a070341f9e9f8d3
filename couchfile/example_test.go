package couchfile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/slipcover/slipcover/couchfile"
)

const (
	exampleShard = fixtures + "/data/shards/00000000-7fffffff/timeline.1795334426.couch"
	exampleTorn  = fixtures + "/damaged/bitflip-doc-body.couch"
	exampleView  = fixtures + "/data/.shards/00000000-7fffffff/compacted.1795334420_design/mrview/3606de4d6b08641325956457b359f621.view"
)

func openFile(path string) (*os.File, int64) {
	f, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	return f, st.Size()
}

func ExampleOpen() {
	f, size := openFile(exampleShard)
	defer f.Close()
	db, err := couchfile.Open(f, size)
	if err != nil {
		log.Fatal(err)
	}
	info, err := db.Info()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.DocCount, info.DeletedCount, info.UpdateSeq, info.UUID)
	doc, err := db.Doc("t05", couchfile.DocOptions{Revs: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(doc))
	_, err = db.Doc("nobody", couchfile.DocOptions{})
	fmt.Println(errors.Is(err, couchfile.ErrNotFound))
	// Output:
	// 15 1 38 51acbf85defb8883ef872585c8fd9cd8
	// {"_id":"t05","_rev":"1-591f398d9701ad559dd6b32368f44a18","kind":"crate","n":1,"w":-696653.376,"tags":["quarry","kettle"],"ok":true,"nil":null,"note":"kettle willow lichen","step":1,"_revisions":{"start":1,"ids":["591f398d9701ad559dd6b32368f44a18"]}}
	// true
}

// The end of the newest header is where a backup cuts a live file.
func ExampleFindHeader() {
	f, size := openFile(exampleShard)
	defer f.Close()
	h, err := couchfile.FindHeader(f, size)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Kind, h.Checksum, h.Offset, h.End, h.End == size)
	// Output:
	// database xxh3-128 86016 86235 true
}

// Every header is a state that the file can be cut to.
func ExamplePoints() {
	f, size := openFile(exampleShard)
	defer f.Close()
	points, err := couchfile.Points(f, size)
	if err != nil {
		log.Fatal(err)
	}
	last := points[len(points)-3]
	db, err := couchfile.OpenAt(f, size, last.Header)
	if err != nil {
		log.Fatal(err)
	}
	info, err := db.Info()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(points), last.History, last.End, info.UpdateSeq, info.DocCount)
	// Output:
	// 21 true 78043 35 15
}

func ExampleDB_Changes() {
	f, size := openFile(exampleShard)
	defer f.Close()
	db, err := couchfile.Open(f, size)
	if err != nil {
		log.Fatal(err)
	}
	for info, err := range db.Changes(26, false) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.UpdateSeq, info.ID, info.Winner(), info.Deleted)
	}
	// Output:
	// 28 t10 1-3d569af4b8c1d2cab910b102707c2f0e false
	// 29 t18 3-2afc5d64cd10c5b9e74783e5231559fb false
	// 30 t25 2-6199d063164eaf818fc2326419681f3d false
	// 31 t28 4-a08ebe51fb352ac9158f270b0a43238d false
	// 33 t20 3-3f933b8c329fd3bd4bec2c3882aed73a false
	// 35 t08 3-16a83b9dabed28a29ecbf9390e78e697 true
	// 36 t04 2-94a2bf77ad656f4c822fdebf4a1a51ee false
	// 37 t19 2-8f135c8bf2fb7dc407905a0a1db03f6a false
	// 38 t24 2-21a275a4fd391798106d5396f76d2efe false
}

func ExampleVerify() {
	f, size := openFile(exampleTorn)
	defer f.Close()
	rep, err := couchfile.Verify(context.Background(), f, size, couchfile.VerifyOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(rep.Docs, rep.DeletedDocs)
	for _, finding := range rep.Findings {
		fmt.Println(finding)
	}
	// Output:
	// 22 14
	// at 12255: doc summary: checksum mismatch (document "d034" rev 1-e6c33da355cb56a757e8e02b3ddb8d5a)
}

// A Scanner checks what passes by on its way into a backup.
func ExampleScanner() {
	f, size := openFile(exampleTorn)
	defer f.Close()
	s := couchfile.NewScanner(0)
	if _, err := io.Copy(io.Discard, io.TeeReader(io.NewSectionReader(f, 0, size), s)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Synced(), s.Anomalies())
	// Output:
	// true [at 12255: chunk: checksum mismatch]
}

// An index that is ahead of its shard must not be restored.
func ExampleOpenView() {
	f, size := openFile(exampleView)
	defer f.Close()
	v, err := couchfile.OpenView(f, size)
	if err != nil {
		log.Fatal(err)
	}
	h := v.Header()
	fmt.Println(h.Signature, h.UpdateSeq, h.PurgeSeq, len(h.Views))
	// Output:
	// 3606de4d6b08641325956457b359f621 248 0 1
}
