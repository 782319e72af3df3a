"""Chinese handwritten lines, drawn, as a split: to calibrate the OCR's confidence, from clean lines to nearly lost ones.

Each line has a difficulty, and every flaw (hand, pen, size, blur, noise, contrast, JPEG, ruling, neighbours' ink) is drawn
up to it; most lines have only some of the flaws. Texts are composed here; about a third are characters without sense, so
that context does not help the reader. Synthetic, and labelled so wherever its figures stand.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from eval.samples.make import BLACK, BLUE, RED, Array, Colour, Desk, Hand, Rng, font_for, smooth

SEED = 20261203
FAMILIES = {"ma-shan-zheng": 0.36, "long-cang": 0.34, "zhi-mang-xing": 0.24, "liu-jian-mao-cao": 0.06}
SENSELESS = 0.3
"""Share of the lines that are characters without sense."""
HARDEST = (1.1, 1.5)
"""Shape of the difficulty: a beta distribution on 0 (clean) to 1 (nearly lost)."""
PAPERS: tuple[Colour, ...] = ((0.96, 0.96, 0.93), (0.98, 0.97, 0.95), (0.9, 0.88, 0.82), (0.82, 0.82, 0.83))
UNLIKE = {
    "ma-shan-zheng": "4F",
    "liu-jian-mao-cao": "F",
    "long-cang": "=丢争兹内凑刽叁参将带弹彦抛捞时樱浑温潜濒焕状狭禄税笺粤纫缝缴羡脚脱萝衔誊赢隐韵颁颜颧飘鲜",
    "zhi-mang-xing": "4F÷丢们侦债傈兑兹内凉凑凛则删别刽劳却厕厢呐哟唤嘘圆坯壶奥婴宫寝将属屡岗帧强彦恒悦惨抛损搀摇撑撵敛数栋样椽橱残氢测渊渍渔温满滤潜澜焕现瑶画癣盏瞩砚禄窥简粤约级纫纱纳纸纺绅终绍绑给绚绝统绥绳维绸综缀缄缅缓编缘缝缩肃脚腾舆萝萧葱蓟蜕蝎袜视计讥讨讼讽诊诗询诬诱诺谎谐谣谦谰败货贬贯贵贸费赁资赐赚赛轨载辆遗遥郧针钞钮铃铆铝铣铱锤锭键锯锻镇镐闯闲间闺闻阀阅阉阎阐阑陨随雏静项顺须颂预颈颊颐频颠风飘饰饺饿馒驾鲍鲜鲸鳃鳞鸦鸽鹏鹤鹰龄",
}
"""What a family draws unlike the label: signs (a ÷ like a dash, a 4 like a 9), and simplified characters that the OCR reads as
traditional ones even printed clean, since many are drawn so. (In liu-jian-mao-cao most are: there only characters that never
were simplified are used.)"""
WORDS = {
    "P": "我 你 他 她 妈妈 爸爸 爷爷 奶奶 老师 小明 小红 同桌 班长 李医生 王阿姨 张同学 弟弟 表姐 护士 邻居",
    "T": "今天 明天 昨天 下午三点半 早上七点 周五放学后 星期天 晚饭前 上个月 中午12:30 9月1日 暑假 刚才 考试前 每天睡前",
    "L": "图书馆 学校 医院 操场 超市 公园 教室 邮局 火车站 办公室 实验室 菜市场 二楼诊室 药房 食堂 海边",
    "D": "写作业 看书 买菜 打篮球 复习语文 背单词 做实验 排队挂号 打扫卫生 量体温 交水电费 浇花 洗衣服 跑步 开家长会 画画",
    "O": "牛奶 面包 铅笔 雨伞 词典 苹果 钥匙 练习册 鸡蛋 毛巾 课本 水壶 病历本 口罩 饺子 橡皮 西红柿 照片",
    "M": "阿莫西林 布洛芬 维生素C 感冒灵颗粒 氯雷他定 硝苯地平 二甲双胍 奥美拉唑 葡萄糖 止咳糖浆 板蓝根 头孢克肟 钙片",
    "I": "咳嗽 头痛 发热 腹泻 咽喉肿痛 失眠 乏力 胃胀 过敏 鼻塞 腰酸 皮疹 血压偏高 扁桃体发炎",
    "F": "一日三次 每日2次 饭后服 睡前服 必要时服 每8小时一次 早晚各一次 空腹 外用 口服",
    "Q": "2片 1粒 10ml 0.5g 5mg 半片 15滴 1袋 250mg 3丸",
    "A": "安静 热闹 明亮 寒冷 认真 勇敢 温暖 美丽 奇怪 清楚 慌张 疲倦 新鲜 干净 严肃 柔软",
    "S": "春风吹绿了柳树 雪花飘落在屋顶 桂花香满了院子 小溪绕过村庄 燕子从南方飞回来 月亮挂在树梢 麦田翻起金色的波浪 雨点敲打着窗户",
    "E": "固体压强P=F/S 密度等于m/V 重力G=mg 速度v=s/t 欧姆定律I=U/R 功率P=W/t 浮力等于排开液体的重力 光合作用产生氧气 水的沸点是100°C",
    "X": "先估一估，再量一量 列竖式计算 用尺子画出对称轴 把假分数化成整数 读一读，写一写 比较大小 求阴影部分的面积 解方程 连线 改写成把字句",
    "C": "语文 数学 英语 物理 化学 历史 地理 生物 音乐 美术 体育 道德与法治",
    "V": "坚持 谦虚 诚实 节约粮食 保护环境 尊重别人 团结 珍惜时间 遵守规则 互相帮助",
    "R": "下雨 堵车 生病 停电 忘带钥匙 起床太晚 作业没写完 路太远",
    "N": "12 35 7.5 108 46 0.8 250 64 19 3/4 500 91",
    "K": "3 8 16 24 1.2 5 40 0.25 7 9 1/2 60",
    "H": "1 2 3 4 5 6 7 8 9 10 11 12",
    "U": "千克 元 厘米 米 个 小时 分钟 km cm kg 平方米 度 页 本 人",
}
TEMPLATES = re.split(
    r"[|\n]",
    """T去LD|TP在LD|P说：T一起去L。|记得买O和O|P的O忘在L了|请T把O带到L|因为R，所以T不能D|虽然R，但是P还是去D
H.X|H、X|第H题：N+K=N|N×K=N|N÷K=N|E|(H)E|答：一共有NU|解：设x=N，则y=K|N-K=KU|每KU有N个，共NU|C第H单元
M Q F|每次Q，F|M×H F|患者I H天|主诉：I伴I H天|诊断：I|体温38.H度，血压120/80|建议多喝水，T复查|对M过敏，停用|F，连服H天
S|S，显得格外A|P是一个A的人|我们要V|V是一种美德|L里很A，人们都在D|“A”的反义词是“A”|D的时候要A|PA地说：我要D！
TC考试，范围第H课|C作业：第N页第H题|P得了N分，比上次多H分|电话：13800KN|房租N元，T交|会议改到T，地点L|写得A，继续努力！|书写A，请订正第H题
读了《C》这本书，我懂得要V|T气温K到N度，A|借PK元，T还|P和P约好T在L见|冰箱里还有O，别买O|I好了再去D|E，单位是U|H.S，H.X""",
)


@cache
def drawable(family: Path, character: str) -> bool:
    """Whether the family has the character, in the form of the label, and there is ink in it."""
    if character in UNLIKE.get(family.name, ""):
        return False
    if family.name == "liu-jian-mao-cao" and character >= "一":  # Big5 begins with the common traditional characters
        code = character.encode("big5", errors="ignore")
        if not code or code[0] > 0xC6:
            return False
    try:
        font = font_for(family, character, 48)
    except SystemExit:
        return False
    mask, absent = font.getmask(character), font.getmask("\ue123")
    return mask.getbbox() is not None and (mask.size != absent.size or bytes(mask) != bytes(absent))


@cache
def _level(first: int, last: int) -> tuple[str, ...]:
    """The characters of GB 2312 whose first byte is in the range: 0xB0-0xD7 are the common ones, up to 0xF7 the rare."""
    codes = [bytes((a, b)) for a in range(first, last + 1) for b in range(0xA1, 0xFF)]
    return tuple(c for c in (code.decode("gb2312", errors="ignore") for code in codes) if c)


def compose(rng: Rng, family: Path, senseless: bool) -> str:
    """A text of which the family can draw every character."""
    known = sorted({c for words in WORDS.values() for c in words if "一" <= c <= "龥"})
    while True:
        if senseless:
            pools = (known, _level(0xB0, 0xD7), _level(0xD8, 0xF7))
            text = "".join(rng.choice(pools[rng.choice(3, p=(0.4, 0.5, 0.1))]) for _ in range(rng.integers(4, 15)))
        else:
            text = re.sub(
                f"[{''.join(WORDS)}]", lambda found: str(rng.choice(WORDS[found[0]].split(" "))), rng.choice(TEMPLATES)
            )
        if all(c == " " or drawable(family, c) for c in text):
            return text


def hand_of(rng: Rng, family: str, hard: float) -> Hand:
    """A writer at random, the wilder the harder."""
    size = int(rng.integers(38, 54))
    return Hand(
        family=family,
        size=size,
        pen=size * float(rng.uniform(0.019, 0.03 + 0.014 * hard)),
        ink=(BLACK, BLUE, BLUE, RED)[rng.choice(4, p=(0.5, 0.2, 0.2, 0.1))],
        slant=float(rng.normal(2, 2 + 7 * hard)),
        wobble=size * float(rng.uniform(0.02, 0.03 + 0.05 * hard)),
        unsteady=float(rng.uniform(0.6, 1.2 + 2.4 * hard)),
        pressure=float(rng.uniform(0.2, 0.6)),
        by_character=True,
        loose=float(rng.uniform(-0.02 - 0.08 * hard, 0.12)),
    )


def draw(desk: Desk, text: str, hand: Hand, hard: float) -> Array:
    """The line's crop before the camera: written on paper, perhaps ruled, perhaps with ink of the lines beside it."""
    rng, size = desk.rng, hand.size
    page = desk.paper(4 * size, size * (4 + len(text)), PAPERS[rng.integers(len(PAPERS))])
    if rng.random() < 0.2 + 0.4 * hard:
        grey = float(rng.uniform(0.45, 0.85))
        desk.rule(page, round(size * rng.uniform(0.2, 1.2)), round(size * rng.uniform(1.1, 1.5)), (grey, grey, 0.85))
    boxes = desk.write(page, text, hand, size, 2.4 * size, float(rng.normal(0, 0.006 + 0.012 * hard)))
    left, right = max(0, min(b[0] for b in boxes)), max(b[2] for b in boxes)
    top, bottom = max(0, min(b[1] for b in boxes)), max(b[3] for b in boxes)
    if rng.random() < 0.6 * hard:
        beside = "".join(rng.choice(list(text.replace(" ", "")), 4))
        near = rng.uniform(0.85, 1.15) * size * rng.choice((-1, 1))
        desk.write(page, beside, hand, rng.uniform(left, max(left + 1, right - 4 * size)), 2.4 * size + near)
    above, below, before, after = (round(size * m) for m in rng.uniform(0.02 - 0.06 * hard, 0.25, 4))
    return page[max(0, top - above) : bottom + below, max(0, left - before) : right + after]


def degrade(desk: Desk, crop: Array, hard: float) -> tuple[Array, int]:
    """Photograph the crop: smaller, paler, blurred, noisy; and the JPEG quality to store it with."""
    rng = desk.rng

    def flaw(chance: float) -> float:
        return hard * float(rng.uniform(0.3, 1)) if rng.random() < chance else 0.0

    crop = crop + (np.median(crop, axis=(0, 1)) - crop) * 0.8 * flaw(0.5)
    height = 64 * float(rng.uniform(0.8, 1.1)) * (17 / 64) ** flaw(0.6)
    crop = smooth(crop, 0.4 + 0.3 * crop.shape[0] / height)
    width = max(8, round(crop.shape[1] * height / crop.shape[0] * float(rng.uniform(1 - 0.25 * hard, 1 + 0.1 * hard))))
    small = np.asarray(cv2.resize(crop, (width, round(height)), interpolation=cv2.INTER_AREA), np.float32)
    shot = desk.expose(small, 0.3 + height * 0.045 * flaw(0.5), 0.006 + 0.09 * flaw(0.5), 0.06 + 0.4 * flaw(0.4))
    return shot, round(90 - 75 * flaw(0.6))


def write_split(fonts: Path, folder: Path, count: int) -> Path:
    """Draw, write images and TSV, and return the TSV's path; the same fonts give the same bytes.

    Args:
        fonts: the folder with the families, see samples/make.py, with liu-jian-mao-cao beside them.
        folder: where to write.
        count: how many lines.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = ["image\ttext\twriter\tnote"]
    for number in range(count):
        desk = Desk(fonts, np.random.default_rng([SEED, number]))
        family = str(desk.rng.choice(list(FAMILIES), p=list(FAMILIES.values())))
        text = compose(desk.rng, fonts / family, bool(desk.rng.random() < SENSELESS))
        hard = float(desk.rng.beta(*HARDEST))
        shot, quality = degrade(desk, _drawn(desk, text, hand_of(desk.rng, family, hard), hard), hard)
        name = f"images/{number:04d}.jpg"
        pixels = (shot[..., ::-1] * 255).round().astype(np.uint8)
        cv2.imwrite(str(folder / name), pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        rows.append(f"{name}\t{text}\t{family}\tsynthetic")
        font_for.cache_clear()  # it keeps every size of every font
    path = folder / "dev.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def _drawn(desk: Desk, text: str, hand: Hand, hard: float) -> Array:
    while True:
        try:
            return draw(desk, text, hand, hard)
        except ValueError:  # a dot can thin away to nothing; then the line is written again
            continue
