// Command verifier checks a whole C2SP tlog-tiles log with Go's own checksum database libraries.
//
// It shares no code with rotator: the signature is checked by sumdb/note, and every record is compared with a leaf hash
// that sumdb/tlog has authenticated against the signed root. With a pinned checkpoint it also checks that the log
// continues it.
//
//	verifier LOG_DIRECTORY VKEY_FILE [PINNED_NOTE]
//
// Exit code 0: the log is what was signed. 1: it is not, and why stands on standard error. 2: usage.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	height = 8
	width  = 1 << height
	batch  = 64 * width
)

// tiles reads hash tiles from a directory; TileHashReader authenticates what it returns.
type tiles struct{ root string }

func (tiles) Height() int                         { return height }
func (tiles) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(wanted))
	for i, tile := range wanted {
		// The library's paths carry the height, those of C2SP tlog-tiles do not.
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		content, err := os.ReadFile(filepath.Join(t.root, path))
		if err != nil {
			return nil, err
		}
		found[i] = content
	}
	return found, nil
}

func open(path string, verifiers note.Verifiers, origin string) (tlog.Tree, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return tlog.Tree{}, err
	}
	signed, err := note.Open(raw, verifiers)
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%s: %w", path, err)
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) < 4 || lines[0] != origin {
		return tlog.Tree{}, fmt.Errorf("%s: not a checkpoint of %s", path, origin)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return tlog.Tree{}, fmt.Errorf("%s: no size", path)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("%s: no root", path)
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}

// records returns the entries of one bundle.
func records(path string, count int64) ([][]byte, error) {
	bundle, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for len(bundle) > 0 {
		if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
			return nil, fmt.Errorf("%s: cut off", path)
		}
		end := 2 + int(binary.BigEndian.Uint16(bundle))
		found = append(found, bundle[2:end])
		bundle = bundle[end:]
	}
	if int64(len(found)) != count {
		return nil, fmt.Errorf("%s: %d records, not %d", path, len(found), count)
	}
	return found, nil
}

func check(directory, keyFile, pinned string) (tlog.Tree, error) {
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return tlog.Tree{}, err
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(key)))
	if err != nil {
		return tlog.Tree{}, err
	}
	verifiers := note.VerifierList(verifier)
	tree, err := open(filepath.Join(directory, "checkpoint"), verifiers, verifier.Name())
	if err != nil || tree.N == 0 {
		return tree, err
	}
	hashes := tlog.TileHashReader(tree, tiles{directory})
	for first := int64(0); first < tree.N; first += batch {
		last := min(first+batch, tree.N)
		indexes := make([]int64, 0, last-first)
		for n := first; n < last; n++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, n))
		}
		leaves, err := hashes.ReadHashes(indexes)
		if err != nil {
			return tree, err
		}
		for n := first; n < last; n += width {
			count := min(int64(width), tree.N-n)
			path := tlog.Tile{H: height, L: -1, N: n / width, W: int(count)}.Path()
			path = strings.Replace(path, "tile/8/data/", "tile/entries/", 1)
			entries, err := records(filepath.Join(directory, path), count)
			if err != nil {
				return tree, err
			}
			for i, entry := range entries {
				if tlog.RecordHash(entry) != leaves[n-first+int64(i)] {
					return tree, fmt.Errorf("record %d is not the one that was signed", n+int64(i))
				}
			}
		}
	}
	if pinned == "" {
		return tree, nil
	}
	older, err := open(pinned, verifiers, verifier.Name())
	if err != nil {
		return tree, err
	}
	if older.N > tree.N {
		return tree, errors.New("rolled back: the pinned checkpoint is larger")
	}
	proof, err := tlog.ProveTree(tree.N, older.N, hashes)
	if err != nil {
		return tree, err
	}
	return tree, tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash)
}

func main() {
	if len(os.Args) < 3 || len(os.Args) > 4 {
		fmt.Fprintln(os.Stderr, "usage: verifier LOG_DIRECTORY VKEY_FILE [PINNED_NOTE]")
		os.Exit(2)
	}
	pinned := ""
	if len(os.Args) == 4 {
		pinned = os.Args[3]
	}
	tree, err := check(os.Args[1], os.Args[2], pinned)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%d records, root %x\n", tree.N, tree.Hash[:])
}
